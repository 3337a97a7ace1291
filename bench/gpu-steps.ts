/**
 * Training steps on one GPU. First a tiny model's losses on `cuda` beside `cpu`'s, then the time and memory of a shape's steps
 * through the trainer (the first ones, which compile and record, are not timed):
 *   gpu-steps losses [STEPS] | gpu-steps floor MODEL TOKENS... | gpu-steps MODEL ROWS LENGTH ACCUMULATION [recompute] [tune] [profile]
 */
import { dispose, findBackend, getBackend, setBackend } from '@tensorflow/tfjs-core';
import { loraSchema, trainSchema } from '../contracts/fine-tune-config.js';
import type { CudaBackend } from '../engine/cuda/backend.js';
import { registerCudaBackend } from '../engine/cuda/register.js';
import { targetModules } from '../engine/formats/linear-modules.js';
import { selectBackend } from '../engine/tensor/backends.js';
import { trainAdapter } from '../engine/train/train.js';
import { modelShapes, randomModel } from './random-model.js';
import { productFloor } from './floor.js';
import { profileLaunches } from './profile.js';
import { randomRows, StepBench } from './train-step.js';

registerCudaBackend();
console.log((await selectBackend('cuda')).description);
const backend = findBackend('cuda') as CudaBackend;
const { device, products } = backend;
const STEPS = 26, WARM_UP = 4;
const [what, rows = '16', length = '256', accumulation = '1', ...flags] = process.argv.slice(2);

if (what === 'losses') {
  const curves: number[][] = [];
  for (const name of ['cpu', 'cuda', 'cuda']) {
    await setBackend(name);
    const bench = new StepBench(randomModel(modelShapes.tiny, { dtype: 'nf4', doubleQuant: true }), 24, 0.05, 3e-3);
    const losses: number[] = [];
    for (let step = 0; step < Number(process.argv[3] ?? 12); step++) {
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
  for (const tokens of process.argv.slice(4).map(Number)) {
    console.log(`ROW ${JSON.stringify({ tokens, floorTokensPerSecond: Math.round(tokens / (productFloor(backend, modelShapes[rows as keyof typeof modelShapes], tokens) / 1000)) })}`);
  }
} else {
  products.tune = flags.includes('tune');
  const config = modelShapes[what as keyof typeof modelShapes];
  const model = randomModel(config, { dtype: 'nf4', doubleQuant: true });
  const shape = { rows: Number(rows), length: Number(length), accumulation: Number(accumulation) };
  const tokens = shape.rows * shape.length * shape.accumulation;
  const times: number[] = [], losses: number[] = [];
  let planned = NaN, before = NaN;
  device.memory.resetPeak();
  const { adapter } = await trainAdapter(
    {
      model,
      lora: loraSchema.parse({ rank: 8, alpha: 8, dropout: 0.05, targetModules: [...targetModules] }),
      train: trainSchema.parse({
        steps: STEPS, batchSize: shape.rows, accumulation: shape.accumulation, learningRate: 1e-5, checkpointing: flags.includes('recompute'), evalEvery: 100_000, checkpointEvery: 100_000,
      }),
      trainRows: randomRows(shape.rows * shape.accumulation, shape.length, config.vocabSize, 1),
      testRows: randomRows(1, shape.length, config.vocabSize, 2),
    },
    {
      onPlan: (description) => {
        console.log(description);
        planned = Number(/in all ([\d.]+) GiB/.exec(description)?.[1]);
      },
      onStep: ({ loss }) => {
        losses.push(loss);
        if (losses.length > WARM_UP) times.push(performance.now() - before);
        before = performance.now();
      },
    },
  );
  adapter.dispose();
  const gibibytes = (bytes: number) => (bytes / 2 ** 30).toFixed(2);
  const median = times.sort((a, b) => a - b)[times.length >> 1];
  const { peakInUse, peakReserved } = device.memory.memory();
  console.log(`losses ${losses.map((loss) => loss.toFixed(4)).join(' ')}`);
  console.log(`RESULT ${what} ${rows}x${length} acc ${accumulation} ${flags.join(' ')}: ${median.toFixed(1)} ms, ${((tokens / median) * 1000).toFixed(0)} tok/s, peak ${gibibytes(peakInUse)} GiB in use, ${gibibytes(peakReserved)} taken, ${planned} planned; compiled ${device.compilation.kernels} kernels in ${(device.compilation.milliseconds / 1000).toFixed(1)} s, ${device.compilation.fromCache} cached`);
  console.log(`ROW ${JSON.stringify({ tokensPerSecond: Math.round((tokens / median) * 1000), peakGiB: Number(gibibytes(peakInUse)), takenGiB: Number(gibibytes(peakReserved)), plannedGiB: planned, millisecondsPerStep: Number(median.toFixed(1)) })}`);
  if (flags.includes('profile')) {
    const bench = new StepBench(model, shape.length), one = { ...shape, recompute: flags.includes('recompute') };
    dispose(Object.values(bench.run(one)).flat());
    console.log(profileLaunches(backend, () => bench.run(one)).slice(0, 45).join('\n'));
  }
}
process.exit(0);
