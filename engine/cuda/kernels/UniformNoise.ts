import { util } from '@tensorflow/tfjs-core';
import { UniformNoise, type UniformNoiseAttrs } from '../../tensor/uniform-noise.js';
import { cudaKernel } from '../backend.js';
import { dropoutArguments } from '../programs/dropout.cu.js';
import { uniformNoiseProgram } from '../programs/noise.cu.js';

export const uniformNoiseKernel = cudaKernel<object, UniformNoiseAttrs>(UniformNoise, ({ attrs: { shape, magnitude, key }, backend }) => {
  const size = util.sizeFromShape(shape);
  const noise = backend.make(shape, 'float32', 'f32', UniformNoise);
  backend.launch(uniformNoiseProgram(size), [backend.pointer(noise), { i64: size }, { f32: magnitude }, ...dropoutArguments(backend.recording?.drawCell ?? 0, { rate: 0, key })]);
  return noise;
});
