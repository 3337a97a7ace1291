/**
 * The linear layers of a block alone, on one GPU: each kernel's time beside the time that its bytes or operations need.
 *   gpu-linear [MODEL] [ROWS] [RANK] [DROPOUT]     defaults: open-llama-3b-v2 4096 8 0.05
 */
import { dispose, engine, findBackend, tidy, type Tensor, type Tensor1D } from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../engine/cuda/backend.js';
import { registerCudaBackend } from '../engine/cuda/register.js';
import type { BlockModule } from '../engine/formats/linear-modules.js';
import { moduleShape } from '../engine/formats/linear-modules.js';
import { selectBackend } from '../engine/tensor/backends.js';
import { runKernel } from '../engine/tensor/kernel.js';
import { LoraGrad, QuantizedLinear, QuantizedLinearGradInput, type QuantizedLinearAttrs } from '../engine/tensor/quantized-linear.js';
import type { Int8Weight } from '../engine/tensor/weight-types.js';
import { launchTimes } from './profile.js';
import { modelShapes } from './random-model.js';

registerCudaBackend();
console.log((await selectBackend('cuda')).description);
const backend = findBackend('cuda') as CudaBackend;
const { device, products } = backend;
products.tune = true;
backend.keepDequantized = 'always';
const [name = 'open-llama-3b-v2', rowsText = '4096', rankText = '8', rateText = '0.05'] = process.argv.slice(2);
const config = modelShapes[name as keyof typeof modelShapes], rows = Number(rowsText), rank = Number(rankText), rate = Number(rateText);
/** Runs of which each kernel's fastest counts. */
const RUNS = 5;

/** Values of both signs around 0.1, in bf16, without a host's random numbers for each. */
function noiseBits(count: number, seed: number): Uint16Array {
  const bits = new Uint16Array(count);
  let state = seed;
  for (let i = 0; i < bits.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    bits[i] = ((state >>> 31) << 15) | 0x3d00 | ((state >>> 22) & 0x1ff);
  }
  return bits;
}

function noise(shape: number[], seed: number): Tensor {
  const out = backend.make(shape, 'float32', 'bf16', 'noise'), bits = noiseBits(shape.reduce((a, b) => a * b), seed);
  device.upload({ address: backend.address(out), bytes: bits.byteLength }, bits);
  return engine().makeTensorFromTensorInfo(out);
}

/** Matrices of these widths, side by side as attention and a gated activation give their gradients. */
function noiseColumns(widths: readonly number[], seed: number): Tensor[] {
  const infos = backend.makeColumns(rows, widths, 'noise'), bits = noiseBits(rows * widths.reduce((a, b) => a + b), seed);
  device.upload({ address: backend.rowsOf(infos[0], rows, widths[0]).address, bytes: bits.byteLength }, bits);
  return infos.map((info) => engine().makeTensorFromTensorInfo(info));
}

/** A matrix of random codes, whose copy in bf16 is kept. */
function noiseWeight([out, inner]: readonly [number, number], seed: number): Int8Weight {
  const codes = backend.make([(out * inner) / 4], 'int32', 'i32', 'codes'), absmax = backend.make([out], 'float32', 'f32', 'scales'), bits = noiseBits((out * inner) / 2, seed);
  device.upload({ address: backend.address(codes), bytes: bits.byteLength }, bits);
  device.upload({ address: backend.address(absmax), bytes: 4 * out }, new Float32Array(out).fill(0.1));
  return { kind: 'int8', shape: [out, inner], codes: engine().makeTensorFromTensorInfo(codes) as Tensor1D, absmax: engine().makeTensorFromTensorInfo(absmax) as Tensor1D };
}

/** Bytes a second of a large copy, read and written: the ceiling of memory-bound kernels. */
function copyRate(): number {
  const bytes = 1 << 30;
  return backend.scratch(bytes, 'a copy', (to) =>
    backend.scratch(bytes, 'a copy', (from) => {
      device.copy(to, from, bytes);
      return (16 * bytes) / device.time(() => {
        for (let i = 0; i < 8; i++) device.copy(to, from, bytes);
      });
    }));
}

const perMillisecond = copyRate();
console.log(`a copy moves ${(perMillisecond / 1e9).toFixed(2)} TB/s`);
const groups: BlockModule[][] = [['q_proj', 'k_proj', 'v_proj'], ['o_proj'], ['gate_proj', 'up_proj'], ['down_proj']];
let total = 0, least = 0;
const report = (title: string, run: () => Tensor[], bytes: (key: string) => number): void => {
  const fastest = new Map<string, { milliseconds: number; count: number }>();
  for (let i = 0; i < RUNS; i++) {
    for (const [key, { milliseconds, count }] of launchTimes(backend, run)) {
      const best = fastest.get(key);
      if (i > 0 && (!best || milliseconds < best.milliseconds)) fastest.set(key, { milliseconds, count });
    }
  }
  console.log(`-- ${title}`);
  for (const [key, { milliseconds, count }] of [...fastest].sort(([, a], [, b]) => b.milliseconds - a.milliseconds)) {
    const floor = bytes(key) / perMillisecond;
    if (/^(lora|gated|normed)/.test(key)) [total, least] = [total + milliseconds, least + floor];
    console.log(`${(1000 * milliseconds).toFixed(1).padStart(8)} us  ${floor > 0 ? `${(1000 * floor).toFixed(1).padStart(6)} us at the copy's rate` : ''.padEnd(27)}  ${count} x ${key}`);
  }
};

for (const modules of groups) {
  const shapes = modules.map((module) => moduleShape(config, module)), [, inner] = shapes[0];
  const x = noise([rows, inner], 2), factors = shapes.flatMap(([out]) => [noise([rank, inner], 3), noise([out, rank], 4)]).map((tensor) => {
    backend.convert(tensor, 'f32');
    return tensor;
  });
  const dys = noiseColumns(shapes.map(([out]) => out), 5);
  const weights = shapes.map((shape, i) => noiseWeight(shape, 8 + i));
  const attrs: QuantizedLinearAttrs = { members: weights.map((weight, i) => ({ weight, scale: 1, dropout: { rate, key: { seed: 1, step: 1, stream: i } } })), eps: 1e-6 };
  const named = (name: string, tensors: readonly Tensor[]): Record<string, Tensor> => Object.fromEntries(tensors.map((tensor, i) => [`${name}${i}`, tensor]));
  const a = named('a', factors.filter((_, i) => i % 2 === 0)), b = named('b', factors.filter((_, i) => i % 2 === 1)), dy = named('dy', dys);
  const wide = shapes.reduce((sum, [out]) => sum + 2 * rows * out, 0), input = 2 * rows * inner, bits = rate > 0 ? (rows * inner * modules.length) / 8 : 0;
  // The kernels that make the input count as the branch's: the down projection's comes as the halves of a gated activation, o's as it is, the others' as a stream and its norm.
  const gated = modules.includes('down_proj'), normed = modules.length > 1;
  const made: Record<string, Tensor> = gated ? { gate: x, up: noise([rows, inner], 12) } : normed ? { x, norm: noise([inner], 12) } : {};
  const before: Record<string, Tensor> = normed ? { skip: noise([rows, inner], 13) } : {};
  if (normed) backend.convert(made.norm, 'f32');
  report(`${modules.join(', ')}: [${rows},${inner}] -> ${shapes.map(([out]) => out).join(', ')}`, () => tidy(() => {
    const ys = runKernel<Tensor[]>(QuantizedLinear, { ...(gated ? made : { x, ...made }), ...a, ...b }, attrs), input = gated || normed ? ys.shift()! : x;
    const found = runKernel<Tensor[]>(LoraGrad, { x: input, ...dy, ...b, ...named('hidden', ys.slice(shapes.length)) }, attrs);
    return [...ys, ...found, ...[runKernel<Tensor | Tensor[]>(QuantizedLinearGradInput, { ...made, ...before, ...dy, ...a, ...named('dHidden', found.filter((_, i) => i % 3 === 2)) }, attrs)].flat()];
  }), (key) =>
    key.startsWith('gated_linear_grad') ? 5 * input + bits : key.startsWith('normed_linear_grad') ? 4 * input + bits : key.startsWith('rms_norm') ? 2 * input : key.startsWith('lora_down') ? (gated ? 3 * input : input) + bits : key.startsWith('lora_spread_b') ? wide : key.startsWith('lora_output') ? wide : key.startsWith('lora_input') ? input + bits : key.startsWith('lora_spread_a') ? input + bits : 0);
  dispose([x, made, before, factors, dys, weights.flatMap(({ codes, absmax }) => [codes, absmax])]);
}
console.log(`the branches' kernels of a block: ${total.toFixed(3)} ms, ${least.toFixed(3)} at the copy's rate; of ${config.layers} blocks ${(total * config.layers).toFixed(1)} and ${(least * config.layers).toFixed(1)}`);
process.exit(0);
