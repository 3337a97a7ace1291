import { dispose, findBackend, memory, setBackend } from '@tensorflow/tfjs-core';
import { expect, it } from 'vitest';
import { modelShapes, randomModel } from '../../bench/random-model.js';
import { StepBench } from '../../bench/train-step.js';
import type { CudaBackend } from '../../engine/cuda/backend.js';
import { describeGpu } from './device.js';

/** Mean losses of a tiny QLoRA training with dropout, accumulation and recomputation on every other step. */
async function losses(backend: string, { graph = false, steps = 12 } = {}): Promise<number[]> {
  await setBackend(backend);
  const bench = new StepBench(randomModel(modelShapes.tiny, { dtype: 'nf4', doubleQuant: true }), 0.05, 3e-3);
  const curve: number[] = [];
  for (let step = 0; step < steps; step++) {
    const result = bench.run({ rows: 2, length: 24, accumulation: 2, recompute: step % 2 === 1, graph });
    curve.push(result.losses.reduce((sum, loss) => sum + loss.dataSync()[0], 0) / 96);
    dispose([result.losses, result.gradNorm]);
  }
  bench.dispose();
  return curve;
}

describeGpu('training on cuda', () => {
  it("follows the cpu backend's losses within bf16's noise", async () => {
    const reference = await losses('cpu');
    const own = await losses('cuda');
    own.forEach((loss, i) => expect(Math.abs(loss - reference[i]) / reference[i]).toBeLessThan(2e-3));
    expect(own.at(-1)).toBeLessThan(own[0] * 0.9);
  });

  it('gives the same bits twice, and by recorded graphs', async () => {
    const first = await losses('cuda');
    expect(await losses('cuda')).toEqual(first);
    expect(await losses('cuda', { graph: true })).toEqual(first);
  });

  it('leaks neither tensors nor device memory', async () => {
    await losses('cuda', { steps: 2 });
    const { device } = findBackend('cuda') as CudaBackend;
    const model = randomModel(modelShapes.tiny, { dtype: 'nf4', doubleQuant: true });
    const bench = new StepBench(model);
    const step = () => {
      const result = bench.run({ rows: 2, length: 24, accumulation: 1, recompute: false, graph: false });
      dispose([result.losses, result.gradNorm]);
    };
    step();
    const before = { tensors: memory().numTensors, blocks: device.memory.memory().blocks, bytes: device.memory.memory().inUse };
    for (let i = 0; i < 100; i++) step();
    expect({ tensors: memory().numTensors, blocks: device.memory.memory().blocks, bytes: device.memory.memory().inUse }).toEqual(before);
    bench.dispose();
  });
});
