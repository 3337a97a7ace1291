import { dispose, setBackend } from '@tensorflow/tfjs-core';
import { expect, it } from 'vitest';
import { modelShapes, randomModel } from '../../bench/random-model.js';
import { StepBench } from '../../bench/train-step.js';
import { describeGpu } from './device.js';

/** Mean losses of a tiny QLoRA training with dropout, accumulation and recomputation on every other step. Recorded from the third step on. */
async function losses(backend: string, steps = 12): Promise<number[]> {
  await setBackend(backend);
  const bench = new StepBench(randomModel(modelShapes.tiny, { dtype: 'nf4', doubleQuant: true }), 24, 0, 3e-3);
  const curve: number[] = [];
  for (let step = 0; step < steps; step++) {
    const result = bench.run({ rows: 2, length: 24, accumulation: 2, recompute: step % 2 === 1 });
    curve.push(result.losses.reduce((sum, loss) => sum + loss.dataSync()[0], 0) / 92);
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
});
