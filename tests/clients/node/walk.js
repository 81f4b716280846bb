// From a CSV file to a prediction with @grpc/grpc-js. Arguments: HOST BASE_PORT CA_FILE TOKEN_FILE NAME PROTOS_FOLDER.
"use strict";

const { createHash } = require("node:crypto");
const { once } = require("node:events");
const { readFileSync } = require("node:fs");
const { promisify } = require("node:util");
const grpc = require("@grpc/grpc-js");
const { loadSync } = require("@grpc/proto-loader");

const [host, basePort, caFile, tokenFile, name, protos] = process.argv.slice(2);
const token = readFileSync(tokenFile, "utf8").trim();

const files = ["data", "training", "registry", "inference", "prediction"].map((file) => `lepton/v1/${file}.proto`);
const definition = loadSync([...files, "inference/grpc_service.proto"], {
  includeDirs: [protos],
  keepCase: true,
  longs: String,
  enums: String,
  defaults: true,
  oneofs: true,
});
const { lepton, inference } = grpc.loadPackageDefinition(definition);
const v1 = lepton.v1;

// The token goes along with every call of a channel.
const bearer = grpc.credentials.createFromMetadataGenerator((_, done) => {
  const metadata = new grpc.Metadata();
  metadata.set("authorization", `Bearer ${token}`);
  done(null, metadata);
});
const secure = grpc.credentials.createSsl(readFileSync(caFile));
const credentials = grpc.credentials.combineChannelCredentials(secure, bearer);
const address = (offset) => `${host}:${Number(basePort) + offset}`;

const unary = (client, method, request) => promisify(client[method].bind(client))(request);

async function importLine(client) {
  const lines = ["x,y"];
  for (let x = 0; x < 200; x += 1) lines.push(`${x},${3 * x + 1}`);
  const file = Buffer.from(lines.join("\n") + "\n");
  let call;
  const answer = new Promise((resolve, reject) => {
    call = client.ImportDataset((error, response) => (error ? reject(error) : resolve(response)));
  });
  call.write({ header: { dataset: name, format: "FILE_FORMAT_CSV", label: "y", source: "line.csv" } });
  for (let at = 0; at < file.length; at += 1024) call.write({ chunk: file.subarray(at, at + 1024) });
  call.end({ end: { sha256: createHash("sha256").update(file).digest("hex") } });
  const { version } = await answer;
  return `${version.dataset}@${version.number}`;
}

async function train(client, dataset) {
  const spec = { kind: "JOB_KIND_FIT", family: "linear_regression", model: name, dataset, target: "y" };
  const { name: job } = await unary(client, "CreateJob", { spec, request_id: `${name}-fit` });
  const updates = client.WatchJob({ name: job });
  // Read to its end: the job's.
  updates.on("data", () => {});
  await once(updates, "end");
  const ended = await unary(client, "GetJob", { name: job });
  if (ended.state !== "JOB_STATE_SUCCEEDED") throw new Error(`${ended.state}: ${ended.error_message}`);
  return ended.version;
}

async function deploy(client) {
  await unary(client, "CreateDeployment", { deployment: { name, version: `${name}@champion` } });
  for await (const { deployment } of client.WatchDeployment({ name })) {
    if (deployment.state === "DEPLOYMENT_STATE_READY") return;
    if (deployment.state === "DEPLOYMENT_STATE_FAILED") throw new Error(deployment.message);
  }
}

async function main() {
  const version = await train(
    new v1.TrainingService(address(12), credentials),
    await importLine(new v1.DataService(address(11), credentials)),
  );
  await unary(new v1.RegistryService(address(13), credentials), "PromoteVersion", { ref: version, alias: "champion" });
  await deploy(new v1.InferenceService(address(15), credentials));

  const rows = await unary(new v1.PredictionService(address(1), credentials), "Predict", {
    deployment: name,
    rows: [{ values: { x: { integer: 1000 } } }],
  });
  const tensors = new inference.GRPCInferenceService(address(1), credentials);
  const x = { name: "x", datatype: "INT64", shape: [1, 1], contents: { int64_contents: [1000] } };
  const { outputs } = await unary(tensors, "ModelInfer", { model_name: name, inputs: [x] });
  const tensor = outputs[0].contents.fp64_contents[0];

  // Without a token there is no answer.
  const stranger = new v1.PredictionService(address(1), secure);
  const refusal = await unary(stranger, "Predict", { deployment: name }).then(
    () => "none",
    (error) => grpc.status[error.code],
  );
  console.log(JSON.stringify({ version, rows: rows.predictions[0].values[0], tensor, refusal }));
  process.exit(0);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
