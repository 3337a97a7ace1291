/**
 * Training steps on one GPU. First a tiny model's losses on `cuda` beside `cpu`'s, then the time and memory of a shape's steps:
 *   gpu-steps losses | gpu-steps floor MODEL TOKENS | gpu-steps MODEL ROWS LENGTH ACCUMULATION [recompute] [lean] [tune] [profile]
 */
import { dispose, findBackend, getBackend, setBackend } from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../engine/cuda/backend.js';
import { registerCudaBackend } from '../engine/cuda/register.js';
import { selectBackend } from '../engine/tensor/backends.js';
import { modelShapes, randomModel } from './random-model.js';
import { productFloor } from './floor.js';
import { profileLaunches } from './profile.js';
import { StepBench } from './train-step.js';

registerCudaBackend();
console.log((await selectBackend('cuda')).description);
const backend = findBackend('cuda') as CudaBackend;
const { device, products } = backend;
/** The first three warm up: compilation, choice of algorithms, recording. */
const STEPS = 25, WARM_UP = 3;
const [what, rows = '16', length = '256', accumulation = '1', ...flags] = process.argv.slice(2);

if (what === 'losses') {
  const curves: number[][] = [];
  for (const name of ['cpu', 'cuda', 'cuda']) {
    await setBackend(name);
    const bench = new StepBench(randomModel(modelShapes.tiny, { dtype: 'nf4', doubleQuant: true }), 24, 0.05, 3e-3);
    const losses: number[] = [];
    for (let step = 0; step < 12; step++) {
      const result = bench.run({ rows: 2, length: 24, accumulation: 2, recompute: step % 2 === 1 });
      losses.push(result.losses.reduce((sum, loss) => sum + loss.dataSync()[0], 0) / 92);
      dispose([result.losses, result.gradNorm]);
    }
    curves.push(losses);
    console.log(getBackend(), losses.map((loss) => loss.toFixed(4)).join(' '));
  }
  console.log('same bits twice:', curves[1].every((loss, i) => loss === curves[2][i]));
} else if (what === 'floor') {
  products.tune = true;
  const tokens = Number(length);
  console.log(`ROW ${JSON.stringify({ tokens, floorTokensPerSecond: Math.round(tokens / (productFloor(backend, modelShapes[rows as keyof typeof modelShapes], tokens) / 1000)) })}`);
} else {
  products.tune = flags.includes('tune');
  let started = performance.now();
  const model = randomModel(modelShapes[what as keyof typeof modelShapes], { dtype: 'nf4', doubleQuant: true });
  device.synchronize();
  console.log(`model in ${((performance.now() - started) / 1000).toFixed(1)} s, ${(device.memory.memory().inUse / 2 ** 30).toFixed(2)} GiB`);
  const bench = new StepBench(model, Number(length));
  const weights = [model.embedding, model.head, ...model.blocks.flatMap(({ linear }) => Object.values(linear))];
  const copies = !flags.includes('lean');
  backend.replayer.settle(weights);
  backend.replayer.choose({ copies, offload: flags.includes('recompute') });
  const shape = {
    rows: Number(rows), length: Number(length), accumulation: Number(accumulation), recompute: flags.includes('recompute'),
  };
  const gibibytes = (bytes: number) => (bytes / 2 ** 30).toFixed(2);
  const resident = backend.replayer.memory().inUse;
  device.memory.resetPeak();
  started = performance.now();
  const { reserved, lasting } = bench.measure(shape)!;
  console.log(`planned in ${(performance.now() - started).toFixed(0)} ms: ${gibibytes(resident)} GiB, copies ${gibibytes(lasting)}, a pass ${gibibytes(reserved)}, in all ${gibibytes(resident + lasting + reserved)}`);
  // As a trainer that logs now and then does, the host does not wait for a step: it prepares the next while the device works.
  const marks: number[] = [], host: number[] = [], losses: number[] = [];
  let launches = 0;
  const pending: ReturnType<StepBench['run']>[] = [];
  const read = () => {
    for (const { losses: parts, gradNorm } of pending.splice(0)) {
      losses.push(parts.reduce((sum, value) => sum + value.dataSync()[0], 0) / (shape.rows * shape.length * shape.accumulation));
      dispose([parts, gradNorm]);
    }
  };
  for (let step = 0; step < STEPS; step++) {
    started = performance.now();
    const before = device.launches;
    pending.push(bench.run(shape));
    launches = device.launches - before;
    if (step < WARM_UP) {
      read();
      console.log(`step ${step}: ${(performance.now() - started).toFixed(1)} ms, loss ${losses.at(-1)!.toFixed(4)}`);
    } else host.push(performance.now() - started);
    if (step >= WARM_UP - 1) marks.push(device.mark());
  }
  read();
  const times = marks.slice(1).map((mark, i) => device.between(marks[i], mark));
  console.log(`losses ${losses.map((loss) => loss.toFixed(4)).join(' ')}`);
  const median = (values: number[]) => values.sort((a, b) => a - b)[values.length >> 1];
  const tokens = shape.rows * shape.length * shape.accumulation;
  const { peakInUse, peakReserved } = device.memory.memory();
  console.log(`RESULT ${what} ${rows}x${length} acc ${accumulation} ${flags.join(' ')}: ${median(times).toFixed(1)} ms, ${(tokens / median(times) * 1000).toFixed(0)} tok/s, queued in ${median(host).toFixed(1)} ms, ${launches} launches, peak ${(peakInUse / 2 ** 30).toFixed(2)} GiB in use, ${(peakReserved / 2 ** 30).toFixed(2)} reserved; compiled ${device.compilation.kernels} kernels in ${(device.compilation.milliseconds / 1000).toFixed(1)} s, ${device.compilation.fromCache} cached`);
  console.log(`ROW ${JSON.stringify({ tokensPerSecond: Math.round((tokens / median(times)) * 1000), peakGiB: Number((peakInUse / 2 ** 30).toFixed(2)), millisecondsPerStep: Number(median(times).toFixed(1)) })}`);
  if (flags.includes('profile')) console.log(profileLaunches(backend, () => bench.run(shape)).slice(0, 45).join('\n'));
}
process.exit(0);
