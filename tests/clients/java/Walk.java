// From a CSV file to a prediction with grpc-java. Arguments: HOST BASE_PORT CA_FILE TOKEN_FILE NAME.

import ai.lepton.v1.CreateDeploymentRequest;
import ai.lepton.v1.CreateJobRequest;
import ai.lepton.v1.DataServiceGrpc;
import ai.lepton.v1.Deployment;
import ai.lepton.v1.DeploymentState;
import ai.lepton.v1.FileFormat;
import ai.lepton.v1.GetJobRequest;
import ai.lepton.v1.ImportDatasetRequest;
import ai.lepton.v1.ImportDatasetResponse;
import ai.lepton.v1.ImportEnd;
import ai.lepton.v1.ImportHeader;
import ai.lepton.v1.InferenceServiceGrpc;
import ai.lepton.v1.Job;
import ai.lepton.v1.JobKind;
import ai.lepton.v1.JobSpec;
import ai.lepton.v1.JobState;
import ai.lepton.v1.PredictRequest;
import ai.lepton.v1.PredictionServiceGrpc;
import ai.lepton.v1.PromoteVersionRequest;
import ai.lepton.v1.RegistryServiceGrpc;
import ai.lepton.v1.Row;
import ai.lepton.v1.TrainingServiceGrpc;
import ai.lepton.v1.Value;
import ai.lepton.v1.WatchDeploymentRequest;
import ai.lepton.v1.WatchJobRequest;
import com.google.protobuf.ByteString;
import inference.GRPCInferenceServiceGrpc;
import inference.GrpcService.InferTensorContents;
import inference.GrpcService.ModelInferRequest;
import io.grpc.CallCredentials;
import io.grpc.ChannelCredentials;
import io.grpc.Grpc;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import io.grpc.stub.StreamObserver;
import java.io.File;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executor;
import java.util.stream.Collectors;
import java.util.stream.IntStream;

/** Imports, trains, promotes, deploys and predicts. */
public final class Walk implements AutoCloseable {
  private final String host;
  private final int basePort;
  private final ChannelCredentials tls;
  private final CallCredentials bearer;
  private final String name;
  private final List<ManagedChannel> channels = new ArrayList<>();

  private Walk(String host, int basePort, File ca, String token, String name) throws Exception {
    this.host = host;
    this.basePort = basePort;
    this.tls = TlsChannelCredentials.newBuilder().trustManager(ca).build();
    this.bearer = new Bearer(token);
    this.name = name;
  }

  public static void main(String[] arguments) throws Exception {
    String token = Files.readString(Path.of(arguments[3])).strip();
    try (Walk walk =
        new Walk(arguments[0], Integer.parseInt(arguments[1]), new File(arguments[2]), token, arguments[4])) {
      walk.run();
    }
  }

  private void run() throws Exception {
    String version = train(importLine());
    RegistryServiceGrpc.newBlockingStub(channel(13))
        .withCallCredentials(bearer)
        .promoteVersion(PromoteVersionRequest.newBuilder().setRef(version).setAlias("champion").build());
    deploy();
    System.out.printf(
        "{\"version\": \"%s\", \"rows\": %s, \"tensor\": %s, \"refusal\": \"%s\"}%n",
        version, predictRows(), predictTensor(), refusal());
  }

  private String importLine() throws Exception {
    byte[] file =
        IntStream.range(0, 200)
            .mapToObj(x -> x + "," + (3 * x + 1))
            .collect(Collectors.joining("\n", "x,y\n", "\n"))
            .getBytes(StandardCharsets.UTF_8);
    CompletableFuture<ImportDatasetResponse> answer = new CompletableFuture<>();
    StreamObserver<ImportDatasetRequest> upload =
        DataServiceGrpc.newStub(channel(11)).withCallCredentials(bearer).importDataset(new Only<>(answer));
    ImportHeader.Builder header = ImportHeader.newBuilder().setDataset(name).setFormat(FileFormat.FILE_FORMAT_CSV);
    upload.onNext(ImportDatasetRequest.newBuilder().setHeader(header.setLabel("y").setSource("line.csv")).build());
    upload.onNext(ImportDatasetRequest.newBuilder().setChunk(ByteString.copyFrom(file)).build());
    ImportEnd.Builder end = ImportEnd.newBuilder().setSha256(sha256(file));
    upload.onNext(ImportDatasetRequest.newBuilder().setEnd(end).build());
    upload.onCompleted();
    return answer.get().getVersion().getDataset() + "@" + answer.get().getVersion().getNumber();
  }

  private String train(String dataset) {
    TrainingServiceGrpc.TrainingServiceBlockingStub training =
        TrainingServiceGrpc.newBlockingStub(channel(12)).withCallCredentials(bearer);
    JobSpec spec =
        JobSpec.newBuilder()
            .setKind(JobKind.JOB_KIND_FIT)
            .setFamily("linear_regression")
            .setModel(name)
            .setDataset(dataset)
            .setTarget("y")
            .build();
    Job job = training.createJob(CreateJobRequest.newBuilder().setSpec(spec).setRequestId(name + "-fit").build());
    training
        .watchJob(WatchJobRequest.newBuilder().setName(job.getName()).build())
        .forEachRemaining(update -> {}); // It ends with the job.
    Job ended = training.getJob(GetJobRequest.newBuilder().setName(job.getName()).build());
    if (ended.getState() != JobState.JOB_STATE_SUCCEEDED) {
      throw new IllegalStateException(ended.getState() + ": " + ended.getErrorMessage());
    }
    return ended.getVersion();
  }

  private void deploy() {
    InferenceServiceGrpc.InferenceServiceBlockingStub deployments =
        InferenceServiceGrpc.newBlockingStub(channel(15)).withCallCredentials(bearer);
    Deployment wanted = Deployment.newBuilder().setName(name).setVersion(name + "@champion").build();
    deployments.createDeployment(CreateDeploymentRequest.newBuilder().setDeployment(wanted).build());
    var changes = deployments.watchDeployment(WatchDeploymentRequest.newBuilder().setName(name).build());
    while (changes.hasNext()) {
      Deployment found = changes.next().getDeployment();
      if (found.getState() == DeploymentState.DEPLOYMENT_STATE_READY) {
        return;
      }
      if (found.getState() == DeploymentState.DEPLOYMENT_STATE_FAILED) {
        throw new IllegalStateException(found.getMessage());
      }
    }
  }

  private double predictRows() {
    Row row = Row.newBuilder().putValues("x", Value.newBuilder().setInteger(1000).build()).build();
    return PredictionServiceGrpc.newBlockingStub(channel(1))
        .withCallCredentials(bearer)
        .predict(PredictRequest.newBuilder().setDeployment(name).addRows(row).build())
        .getPredictions(0)
        .getValues(0);
  }

  private double predictTensor() {
    ModelInferRequest.InferInputTensor x =
        ModelInferRequest.InferInputTensor.newBuilder()
            .setName("x")
            .setDatatype("INT64")
            .addShape(1)
            .addShape(1)
            .setContents(InferTensorContents.newBuilder().addInt64Contents(1000))
            .build();
    return GRPCInferenceServiceGrpc.newBlockingStub(channel(1))
        .withCallCredentials(bearer)
        .modelInfer(ModelInferRequest.newBuilder().setModelName(name).addInputs(x).build())
        .getOutputs(0)
        .getContents()
        .getFp64Contents(0);
  }

  /** Returns the status of a call without a token. */
  private String refusal() {
    try {
      PredictionServiceGrpc.newBlockingStub(channel(1))
          .predict(PredictRequest.newBuilder().setDeployment(name).build());
      return "none";
    } catch (StatusRuntimeException refused) {
      return refused.getStatus().getCode().name();
    }
  }

  private ManagedChannel channel(int offset) {
    ManagedChannel opened = Grpc.newChannelBuilder(host + ":" + (basePort + offset), tls).build();
    channels.add(opened);
    return opened;
  }

  private static String sha256(byte[] content) throws Exception {
    return String.format("%064x", new java.math.BigInteger(1, MessageDigest.getInstance("SHA-256").digest(content)));
  }

  @Override
  public void close() {
    channels.forEach(ManagedChannel::shutdownNow);
  }

  /** The token, sent with every call of a stub. */
  private static final class Bearer extends CallCredentials {
    private final Metadata headers = new Metadata();

    Bearer(String token) {
      headers.put(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER), "Bearer " + token);
    }

    @Override
    public void applyRequestMetadata(RequestInfo info, Executor executor, MetadataApplier applier) {
      applier.apply(headers);
    }

    @Override
    public void thisUsesUnstableApi() {}
  }

  /** The one answer of a stream of requests. */
  private static final class Only<T> implements StreamObserver<T> {
    private final CompletableFuture<T> answer;

    Only(CompletableFuture<T> answer) {
      this.answer = answer;
    }

    @Override
    public void onNext(T value) {
      answer.complete(value);
    }

    @Override
    public void onError(Throwable error) {
      answer.completeExceptionally(error);
    }

    @Override
    public void onCompleted() {}
  }
}
