// From a CSV file to a prediction with google.golang.org/grpc. Arguments: HOST BASE_PORT CA_FILE TOKEN_FILE NAME.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"lepton.ai/api/inference"
	leptonv1 "lepton.ai/api/lepton/v1"
)

// token goes along with every call of a connection; it implements credentials.PerRPCCredentials.
type token string

func (t token) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(t)}, nil
}

func (token) RequireTransportSecurity() bool { return true }

func main() {
	if len(os.Args) != 6 {
		log.Fatal("arguments: HOST BASE_PORT CA_FILE TOKEN_FILE NAME")
	}
	if err := walk(context.Background(), os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5]); err != nil {
		log.Fatal(err)
	}
}

func walk(ctx context.Context, host, basePort, caFile, tokenFile, name string) error {
	secret, err := os.ReadFile(tokenFile)
	if err != nil {
		return err
	}
	tls, err := credentials.NewClientTLSFromFile(caFile, "")
	if err != nil {
		return err
	}
	base, err := strconv.Atoi(basePort)
	if err != nil {
		return err
	}
	dial := func(offset int, options ...grpc.DialOption) (*grpc.ClientConn, error) {
		return grpc.Dial(fmt.Sprintf("%s:%d", host, base+offset), append(options, grpc.WithTransportCredentials(tls))...)
	}
	bearer := grpc.WithPerRPCCredentials(token(strings.TrimSpace(string(secret))))
	connections := map[int]*grpc.ClientConn{}
	for _, offset := range []int{1, 11, 12, 13, 15} {
		connection, err := dial(offset, bearer)
		if err != nil {
			return err
		}
		defer connection.Close()
		connections[offset] = connection
	}

	dataset, err := importLine(ctx, leptonv1.NewDataServiceClient(connections[11]), name)
	if err != nil {
		return fmt.Errorf("import: %w", err)
	}
	version, err := train(ctx, leptonv1.NewTrainingServiceClient(connections[12]), name, dataset)
	if err != nil {
		return fmt.Errorf("train: %w", err)
	}
	promotion := &leptonv1.PromoteVersionRequest{Ref: version, Alias: "champion"}
	if _, err := leptonv1.NewRegistryServiceClient(connections[13]).PromoteVersion(ctx, promotion); err != nil {
		return fmt.Errorf("promote: %w", err)
	}
	if err := deploy(ctx, leptonv1.NewInferenceServiceClient(connections[15]), name); err != nil {
		return fmt.Errorf("deploy: %w", err)
	}
	rows, err := predictRows(ctx, leptonv1.NewPredictionServiceClient(connections[1]), name)
	if err != nil {
		return fmt.Errorf("predict rows: %w", err)
	}
	tensor, err := predictTensor(ctx, inference.NewGRPCInferenceServiceClient(connections[1]), name)
	if err != nil {
		return fmt.Errorf("predict a tensor: %w", err)
	}

	// Without a token there is no answer.
	stranger, err := dial(1)
	if err != nil {
		return err
	}
	defer stranger.Close()
	_, refusal := leptonv1.NewPredictionServiceClient(stranger).Predict(ctx, &leptonv1.PredictRequest{Deployment: name})
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"version": version, "rows": rows, "tensor": tensor, "refusal": status.Code(refusal).String(),
	})
}

func importLine(ctx context.Context, client leptonv1.DataServiceClient, name string) (string, error) {
	var file strings.Builder
	file.WriteString("x,y\n")
	for x := 0; x < 200; x++ {
		fmt.Fprintf(&file, "%d,%d\n", x, 3*x+1)
	}
	stream, err := client.ImportDataset(ctx)
	if err != nil {
		return "", err
	}
	header := &leptonv1.ImportHeader{
		Dataset: name, Format: leptonv1.FileFormat_FILE_FORMAT_CSV, Label: "y", Source: "line.csv",
	}
	digest := sha256.Sum256([]byte(file.String()))
	end := &leptonv1.ImportEnd{Sha256: hex.EncodeToString(digest[:])}
	for _, request := range []*leptonv1.ImportDatasetRequest{
		{Part: &leptonv1.ImportDatasetRequest_Header{Header: header}},
		{Part: &leptonv1.ImportDatasetRequest_Chunk{Chunk: []byte(file.String())}},
		{Part: &leptonv1.ImportDatasetRequest_End{End: end}},
	} {
		if err := stream.Send(request); err != nil {
			break // What went wrong comes with the answer.
		}
	}
	answer, err := stream.CloseAndRecv()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s@%d", answer.Version.Dataset, answer.Version.Number), nil
}

func train(ctx context.Context, client leptonv1.TrainingServiceClient, name, dataset string) (string, error) {
	spec := &leptonv1.JobSpec{
		Kind: leptonv1.JobKind_JOB_KIND_FIT, Family: "linear_regression", Model: name, Dataset: dataset, Target: "y",
	}
	job, err := client.CreateJob(ctx, &leptonv1.CreateJobRequest{Spec: spec, RequestId: name + "-fit"})
	if err != nil {
		return "", err
	}
	updates, err := client.WatchJob(ctx, &leptonv1.WatchJobRequest{Name: job.Name})
	if err != nil {
		return "", err
	}
	for {
		if _, err := updates.Recv(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return "", err
		}
	}
	job, err = client.GetJob(ctx, &leptonv1.GetJobRequest{Name: job.Name})
	if err != nil {
		return "", err
	}
	if job.State != leptonv1.JobState_JOB_STATE_SUCCEEDED {
		return "", fmt.Errorf("%s: %s", job.State, job.ErrorMessage)
	}
	return job.Version, nil
}

func deploy(ctx context.Context, client leptonv1.InferenceServiceClient, name string) error {
	wanted := &leptonv1.Deployment{Name: name, Version: name + "@champion"}
	if _, err := client.CreateDeployment(ctx, &leptonv1.CreateDeploymentRequest{Deployment: wanted}); err != nil {
		return err
	}
	changes, err := client.WatchDeployment(ctx, &leptonv1.WatchDeploymentRequest{Name: name})
	if err != nil {
		return err
	}
	for {
		change, err := changes.Recv()
		if err != nil {
			return err
		}
		switch change.Deployment.State {
		case leptonv1.DeploymentState_DEPLOYMENT_STATE_READY:
			return nil
		case leptonv1.DeploymentState_DEPLOYMENT_STATE_FAILED:
			return errors.New(change.Deployment.Message)
		}
	}
}

func predictRows(ctx context.Context, client leptonv1.PredictionServiceClient, name string) (float64, error) {
	row := &leptonv1.Row{Values: map[string]*leptonv1.Value{"x": {Kind: &leptonv1.Value_Integer{Integer: 1000}}}}
	answer, err := client.Predict(ctx, &leptonv1.PredictRequest{Deployment: name, Rows: []*leptonv1.Row{row}})
	if err != nil {
		return 0, err
	}
	return answer.Predictions[0].Values[0], nil
}

func predictTensor(ctx context.Context, client inference.GRPCInferenceServiceClient, name string) (float64, error) {
	answer, err := client.ModelInfer(ctx, &inference.ModelInferRequest{
		ModelName: name,
		Inputs: []*inference.ModelInferRequest_InferInputTensor{{
			Name: "x", Datatype: "INT64", Shape: []int64{1, 1},
			Contents: &inference.InferTensorContents{Int64Contents: []int64{1000}},
		}},
	})
	if err != nil {
		return 0, err
	}
	return answer.Outputs[0].Contents.Fp64Contents[0], nil
}
