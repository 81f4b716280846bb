# From a CSV file to a prediction with the grpc gem. Arguments: HOST BASE_PORT CA_FILE TOKEN_FILE NAME.
# frozen_string_literal: true

require "digest"
require "grpc"
require "json"

require "inference/grpc_service_services_pb"
require "lepton/v1/data_services_pb"
require "lepton/v1/inference_services_pb"
require "lepton/v1/prediction_services_pb"
require "lepton/v1/registry_services_pb"
require "lepton/v1/training_services_pb"

V1 = Lepton::V1

# Imports, trains, promotes, deploys and predicts.
class Walk
  def initialize(host, base_port, ca_file, token_file, name)
    @host = host
    @base_port = Integer(base_port)
    @tls = GRPC::Core::ChannelCredentials.new(File.read(ca_file))
    token = File.read(token_file).strip
    # The token goes along with every call of a channel.
    @bearer = GRPC::Core::CallCredentials.new(proc { { "authorization" => "Bearer #{token}" } })
    @name = name
  end

  def run
    version = train(import_line)
    registry = stub(V1::RegistryService, 13)
    registry.promote_version(V1::PromoteVersionRequest.new(ref: version, alias: "champion"))
    deploy
    puts JSON.generate(version: version, rows: predict_rows, tensor: predict_tensor, refusal: refusal)
  end

  private

  def stub(service, offset, credentials = @tls.compose(@bearer))
    service::Stub.new("#{@host}:#{@base_port + offset}", credentials)
  end

  def import_line
    file = "x,y\n" + (0...200).map { |x| "#{x},#{3 * x + 1}\n" }.join
    header = V1::ImportHeader.new(dataset: @name, format: :FILE_FORMAT_CSV, label: "y", source: "line.csv")
    ending = V1::ImportEnd.new(sha256: Digest::SHA256.hexdigest(file))
    requests = [
      V1::ImportDatasetRequest.new(header: header),
      V1::ImportDatasetRequest.new(chunk: file),
      V1::ImportDatasetRequest.new(end: ending)
    ]
    version = stub(V1::DataService, 11).import_dataset(requests).version
    "#{version.dataset}@#{version.number}"
  end

  def train(dataset)
    training = stub(V1::TrainingService, 12)
    spec = V1::JobSpec.new(
      kind: :JOB_KIND_FIT, family: "linear_regression", model: @name, dataset: dataset, target: "y"
    )
    job = training.create_job(V1::CreateJobRequest.new(spec: spec, request_id: "#{@name}-fit"))
    # The stream ends with the job.
    training.watch_job(V1::WatchJobRequest.new(name: job.name)).each { |update| update }
    ended = training.get_job(V1::GetJobRequest.new(name: job.name))
    raise "#{ended.state}: #{ended.error_message}" unless ended.state == :JOB_STATE_SUCCEEDED

    ended.version
  end

  def deploy
    deployments = stub(V1::InferenceService, 15)
    wanted = V1::Deployment.new(name: @name, version: "#{@name}@champion")
    deployments.create_deployment(V1::CreateDeploymentRequest.new(deployment: wanted))
    deployments.watch_deployment(V1::WatchDeploymentRequest.new(name: @name)).each do |change|
      raise change.deployment.message if change.deployment.state == :DEPLOYMENT_STATE_FAILED
      break if change.deployment.state == :DEPLOYMENT_STATE_READY
    end
  end

  def predict_rows
    row = V1::Row.new(values: { "x" => V1::Value.new(integer: 1000) })
    answer = stub(V1::PredictionService, 1).predict(V1::PredictRequest.new(deployment: @name, rows: [row]))
    answer.predictions.first.values.first
  end

  def predict_tensor
    x = Inference::ModelInferRequest::InferInputTensor.new(
      name: "x", datatype: "INT64", shape: [1, 1],
      contents: Inference::InferTensorContents.new(int64_contents: [1000])
    )
    answer = stub(Inference::GRPCInferenceService, 1).model_infer(
      Inference::ModelInferRequest.new(model_name: @name, inputs: [x])
    )
    answer.outputs.first.contents.fp64_contents.first
  end

  # Returns the status of a call without a token.
  def refusal
    stub(V1::PredictionService, 1, @tls).predict(V1::PredictRequest.new(deployment: @name))
    "none"
  rescue GRPC::BadStatus => e
    e.class.name.split("::").last
  end
end

Walk.new(*ARGV).run
