// A reward server in Node.js: videos whose motion changes little from frame to frame score higher.
//
//     npm ci
//     node server.js --port 9000
//
// The same reward as examples/motion_smoothness.py. It serves ScoreBatch without Ray and without Python;
// trainers send their rollouts there with `--reward.endpoint 127.0.0.1:9000`.
'use strict';

const path = require('node:path');
const { parseArgs } = require('node:util');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');
const protobuf = require('protobufjs');

const { values: flags } = parseArgs({
  options: {
    port: { type: 'string', default: '9000' },
    protos: { type: 'string', default: path.join(__dirname, '..', '..', 'protos') },
  },
});

const NAME = 'motion_smoothness';
const VERSION = '1';
const SCALE_PX = 1.0;
const MAX_REQUEST_ID = 128;
const LIMITS = { max_request_bytes: 64 << 20, max_rollouts: 256, max_tensor_bytes: 32 << 20 };
const ITEM_BYTES = { D_TYPE_FLOAT16: 2, D_TYPE_FLOAT32: 4, D_TYPE_UINT8: 1 };
const IS_FLOAT = { depth: true, motion: true, object_ids: false, rgb: false };
const REQUIRED = ['depth', 'motion', 'object_ids'];

const definition = loader.loadSync('phys4d/reward/v1/reward.proto', {
  includeDirs: [flags.protos, __dirname],
  keepCase: true,
  longs: String, // A Number would round seeds above 2^53.
  enums: String,
  defaults: true,
  oneofs: true,
});
const reward = grpc.loadPackageDefinition(definition).phys4d.reward.v1;
const ErrorInfo = protobuf
  .loadSync(path.join(__dirname, 'google', 'rpc', 'error_details.proto'))
  .lookupType('google.rpc.ErrorInfo');

class RolloutError extends Error {
  constructor(reason, message, errorClass = 'DATA') {
    super(message);
    this.reason = reason;
    this.errorClass = errorClass;
  }
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0x82f63b78 : value >>> 1;
  return value >>> 0;
});

function crc32c(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = CRC_TABLE[(crc ^ byte) & 0xff] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

function float16(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 0x1f) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

// A function from the index of an element to its value.
function reader(tensor) {
  const { data } = tensor;
  if (tensor.dtype === 'D_TYPE_UINT8') return (i) => data[i];
  if (tensor.dtype === 'D_TYPE_FLOAT32') return (i) => data.readFloatLE(4 * i);
  return (i) => float16(data.readUInt16LE(2 * i));
}

// Checks a rollout as the proto demands, and returns its tensors by name.
function checked(rollout) {
  if (!rollout.sample_id) throw new RolloutError('MISSING_SAMPLE_ID', 'sample_id must not be empty');
  if (!rollout.scene) throw new RolloutError('MISSING_SCENE', 'a rollout needs a scene');
  if (!rollout.camera) throw new RolloutError('MISSING_CAMERA', 'a rollout needs a camera');
  const frames = rollout.scene.num_frames;
  const { width, height } = rollout.camera;
  const shapes = {
    depth: [frames, height, width],
    motion: [frames - 1, height, width, 3],
    object_ids: [height, width],
    rgb: [frames, height, width, 3],
  };
  const tensors = {};
  for (const tensor of rollout.tensors) {
    const { name } = tensor;
    if (!(name in shapes) || name in tensors) {
      throw new RolloutError('WRONG_TENSORS', `tensor ${name} is unknown or came twice`);
    }
    if (!(tensor.dtype in ITEM_BYTES) || (tensor.dtype !== 'D_TYPE_UINT8') !== IS_FLOAT[name]) {
      throw new RolloutError('WRONG_DTYPE', `${name} must not be ${tensor.dtype}`);
    }
    if (tensor.codec !== 'CODEC_NONE') {
      throw new RolloutError('UNKNOWN_CODEC', `${name} must have codec NONE, got ${tensor.codec}`);
    }
    if (tensor.shape.join() !== shapes[name].join()) {
      throw new RolloutError('WRONG_SHAPE', `${name} must be [${shapes[name]}], got [${tensor.shape}]`);
    }
    const numBytes = tensor.shape.reduce((product, axis) => product * Number(axis), ITEM_BYTES[tensor.dtype]);
    if (numBytes > LIMITS.max_tensor_bytes) {
      throw new RolloutError('TOO_LARGE', `${name} has ${numBytes} bytes`);
    }
    if (Number(tensor.byte_size) !== numBytes || tensor.data.length !== numBytes) {
      const came = `byte_size says ${tensor.byte_size} and ${tensor.data.length} came`;
      throw new RolloutError('WRONG_SIZE', `${name} takes ${numBytes} bytes, ${came}`);
    }
    if (crc32c(tensor.data) !== tensor.crc32c) {
      throw new RolloutError('CHECKSUM_MISMATCH', `${name} was damaged on the way`, 'INFRA');
    }
    tensors[name] = tensor;
  }
  for (const name of REQUIRED) {
    if (!(name in tensors)) throw new RolloutError('WRONG_TENSORS', `a rollout needs ${name}`);
  }
  return tensors;
}

// 1 / (1 + a / SCALE_PX); a: mean length of the change of (du, dv) from frame to frame, on the objects' pixels.
function smoothness(tensors) {
  const [steps, height, width] = tensors.motion.shape.map(Number);
  if (steps < 2) throw new RolloutError('TOO_SHORT', `smoothness needs 3 frames, got ${steps + 1}`);
  const motion = reader(tensors.motion);
  const ids = reader(tensors.object_ids);
  const numPixels = height * width;
  for (let i = 0; i < 3 * numPixels * steps; i++) {
    if (!Number.isFinite(motion(i))) throw new RolloutError('NON_FINITE_MOTION', 'motion must be finite');
  }
  let sum = 0;
  let count = 0;
  for (let pixel = 0; pixel < numPixels; pixel++) {
    if (ids(pixel) === 0) continue;
    for (let step = 1; step < steps; step++) {
      const now = 3 * (step * numPixels + pixel);
      const before = now - 3 * numPixels;
      sum += Math.hypot(motion(now) - motion(before), motion(now + 1) - motion(before + 1));
      count += 1;
    }
  }
  if (count === 0) throw new RolloutError('NO_VISIBLE_OBJECT', 'object_ids marks no pixel of frame 0');
  const mean = sum / count;
  return { value: 1 / (1 + mean / SCALE_PX), components: { mean_change_px: mean } };
}

function outcome(rollout, isLate) {
  const answer = { sample_id: rollout.sample_id, attempt: rollout.attempt };
  const start = process.hrtime.bigint();
  try {
    if (isLate) throw new RolloutError('BUDGET_EXCEEDED', 'not scored within the budget of the call', 'INFRA');
    const { value, components } = smoothness(checked(rollout));
    const seconds = Number(process.hrtime.bigint() - start) / 1e9;
    answer.score = { value, components, scorer_version: VERSION, scoring_s: seconds, seed: rollout.seed };
  } catch (error) {
    const known = error instanceof RolloutError;
    if (!known) console.error(error);
    const errorClass = known ? error.errorClass : 'INFRA';
    const info = { reason: known ? error.reason : 'REWARD_RAISED', domain: 'phys4d.reward' };
    const packed = ErrorInfo.encode(ErrorInfo.create({ ...info, metadata: { class: errorClass } })).finish();
    answer.error = {
      code: errorClass === 'DATA' ? grpc.status.INVALID_ARGUMENT : grpc.status.UNAVAILABLE,
      message: error.message,
      details: [{ type_url: 'type.googleapis.com/google.rpc.ErrorInfo', value: packed }],
    };
  }
  return answer;
}

function scoreBatch(call, callback) {
  const start = process.hrtime.bigint();
  const { rollouts, reward: name, request_id: requestId } = call.request;
  const budgetNs = BigInt(call.request.budget_ms) * 1000000n;
  const ids = new Set(rollouts.map((rollout) => rollout.sample_id));
  let fault = '';
  if (name && name !== NAME) fault = `unknown reward ${name.slice(0, 64)}; on offer: ${NAME}`;
  if (rollouts.length > LIMITS.max_rollouts) fault = `at most ${LIMITS.max_rollouts} rollouts are taken`;
  if (ids.size !== rollouts.length) fault = 'sample ids must be unique within a request';
  if (requestId.length > MAX_REQUEST_ID) fault = `request_id must have at most ${MAX_REQUEST_ID} characters`;
  if (fault) return callback({ code: grpc.status.INVALID_ARGUMENT, details: fault });
  const isLate = () => budgetNs > 0n && process.hrtime.bigint() - start > budgetNs;
  callback(null, { outcomes: rollouts.map((rollout) => outcome(rollout, isLate())) });
}

function getServerInfo(call, callback) {
  callback(null, {
    rewards: [{ name: NAME, version: VERSION, description: 'Motion that changes little scores higher.' }],
    limits: LIMITS,
    codecs: ['CODEC_NONE'],
    streams: false,
    server: 'phys4d-reward-example 1.0.0',
  });
}

const server = new grpc.Server({ 'grpc.max_receive_message_length': LIMITS.max_request_bytes });
server.addService(reward.RewardService.service, { GetServerInfo: getServerInfo, ScoreBatch: scoreBatch });
const address = `127.0.0.1:${flags.port}`;
server.bindAsync(address, grpc.ServerCredentials.createInsecure(), (error, port) => {
  if (error) {
    console.error(`error: cannot listen on ${address}: ${error.message}`);
    process.exit(2);
  }
  console.log(`ready on 127.0.0.1:${port}`);
});
for (const signal of ['SIGTERM', 'SIGINT']) {
  process.on(signal, () => server.tryShutdown(() => process.exit(0)));
}
