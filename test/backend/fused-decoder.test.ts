import { getBackend, memory } from '@tensorflow/tfjs-core';
import { expect, it } from 'vitest';
import { modelShapes, randomModel } from '../../bench/random-model.js';
import { startFusedDecoder } from '../../engine/model/fused-decoder.js';
import { disposeModel } from '../../engine/model/load.js';
import { registerDecoder, type DecoderFactory } from '../../engine/tensor/decoder.js';
import { describeBackends } from '../kit/backends.js';

/** Decoders that were disposed. */
let disposed = 0;
const failing = (): never => {
  throw new Error('no memory');
};

describeBackends('startFusedDecoder', () => {
  it.each<[string, DecoderFactory, number]>([
    ['its cache', failing, 0],
    ['the prompts', () => ({ ahead: 1, place: '', queue: failing, read: failing, keep: failing, fill: failing, start: failing, dispose: () => void disposed++ }), 1],
  ])('leaves nothing behind where there is no memory for %s', (_, factory, made) => {
    registerDecoder(getBackend(), factory);
    const model = randomModel(modelShapes.tiny, { dtype: 'bf16' }), before = memory().numTensors;
    disposed = 0;
    expect(() => startFusedDecoder({ model }, [[1, 2, 3]], 8)).toThrow('no memory');
    expect([memory().numTensors, disposed]).toEqual([before, made]);
    disposeModel(model);
  });
});
