import { expect, it } from 'vitest';
import { describeWithModel } from '../kit/model.js';
import { smolLm2Course, trainSmolLm2 } from '../kit/smollm2-training.js';
import { describeGpu } from './device.js';

await describeWithModel('SmolLM2-135M-Instruct', (directory) => {
  describeGpu('trained on cuda', () => {
    it('follows the loss curve of the tensorflow backend within bfloat16 noise and ends at its held-out loss', async () => {
      const expected = await smolLm2Course();
      const { losses, evalLoss } = await trainSmolLm2(directory);
      expect(losses).toHaveLength(expected.losses.length);
      losses.forEach((loss, step) => expect(Math.abs(loss - expected.losses[step]), `step ${step + 1}: ${loss} against ${expected.losses[step]}`).toBeLessThan(0.03));
      expect(Math.abs(evalLoss / expected.evalLoss - 1)).toBeLessThan(0.005);
    });
  });
});
