import { add, mul, sigmoid, sub, util, type Tensor } from '@tensorflow/tfjs-core';
import { differentiable, registerPortableKernel, runKernel, type Inputs } from './kernel.js';
import { shapeError, shapeText } from './shape-error.js';

/** Kernel: { gate, up } of one shape → silu(gate)·up. */
export const SwiGlu = 'TemperSwiGlu';
export interface SwiGluInputs extends Inputs {
  gate: Tensor;
  up: Tensor;
}
/** Kernel: { dy, gate, up } of one shape → [dGate, dUp]. */
export const SwiGluGrad = 'TemperSwiGluGrad';
export interface SwiGluGradInputs extends SwiGluInputs {
  dy: Tensor;
}

/** The two halves of a gated activation, which stand for silu(gate) · up; both of one shape. */
export interface GatedInput {
  gate: Tensor;
  up: Tensor;
}
export const isGated = (input: object): input is GatedInput => 'gate' in input;

/** silu(gate) · up, silu(z) = z·sigmoid(z) (arXiv 2002.05202). Both of one shape. */
export function swiGlu(gate: Tensor, up: Tensor): Tensor {
  checkGated('swiGlu', { gate, up });
  const inputs = { gate, up };
  return differentiable<Tensor>(
    inputs,
    (save) => {
      save([gate, up]);
      return runKernel<Tensor>(SwiGlu, inputs);
    },
    (dy, [gate, up]) => {
      const [dGate, dUp] = runKernel<Tensor[]>(SwiGluGrad, { dy, gate, up });
      return { gate: () => dGate, up: () => dUp };
    },
  );
}

export function checkGated(op: string, { gate, up }: GatedInput): void {
  if (!util.arraysEqual(gate.shape, up.shape)) throw shapeError(`${op}: up: expected shape ${shapeText(gate)} of gate, got ${shapeText(up)}`);
}

registerPortableKernel<SwiGluInputs, object>(SwiGlu, ({ gate, up }) => mul(mul(gate, sigmoid(gate)), up));

registerPortableKernel<SwiGluGradInputs, object>(SwiGluGrad, ({ dy, gate, up }) => {
  const s = sigmoid(gate);
  const silu = mul(gate, s);
  // silu' = s + silu·(1 - s) = silu + s·(1 - silu)
  return [mul(mul(dy, up), add(silu, mul(s, sub(1, silu)))), mul(dy, silu)];
});
