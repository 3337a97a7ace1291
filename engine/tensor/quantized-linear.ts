import { add, cast, clone, matMul, mul, reshape, sum, util, zeros, type Tensor, type Tensor1D, type Tensor2D } from '@tensorflow/tfjs-core';
import { dropoutKeep } from './dropout-mask.js';
import { dropoutInflation } from './dropout-rate.js';
import { dequantize, type FrozenWeight } from './frozen-weight.js';
import { differentiable, registerPortableKernel, runKernel, type Inputs } from './kernel.js';
import { checkLora, type DropoutOptions, type LoraBranch } from './lora.js';
import { expectShape, shapeError, shapeText } from './shape-error.js';
import { checkGated, isGated, SwiGlu, SwiGluGrad, type GatedInput } from './swi-glu.js';
import { isNative, selectNative } from './tensorflow-native.js';

export interface QuantizedLinearOptions {
  lora?: LoraBranch;
  /** [out]. */
  bias?: Tensor1D;
  /** [..., out]: added to the result, as a residual stream is. */
  residual?: Tensor;
}

/** One of the layers that share an input. */
export interface LinearMember extends QuantizedLinearOptions {
  weight: FrozenWeight;
  /** Nothing reads the result: only what its gradients need is computed. @default false */
  unread?: boolean;
  /** The gradients are taken soon: what the product was made with may stay in memory for them. @default false */
  gradientNext?: boolean;
}

/**
 * y = x·Wᵀ + bias + residual + scale · dropout(x)·Aᵀ·Bᵀ, with W frozen: gradients flow to x, A, B, the bias and the residual only.
 * @param x [..., in]
 * @returns [..., out]
 */
export const quantizedLinear = (x: Tensor, weight: FrozenWeight, options: QuantizedLinearOptions = {}): Tensor => quantizedLinears(x, [{ weight, ...options }])[0];

/**
 * The same for several layers of one input, whose passes over x and whose gradients to it are then made together.
 * @param input x [..., in]; or the halves of a gated activation, from which x is made where the layers read it, and to which its
 * gradient goes on
 * @returns [..., out] of each member
 */
export function quantizedLinears(input: Tensor | GatedInput, members: readonly LinearMember[]): Tensor[] {
  const given: Record<string, Tensor> = isGated(input) ? { gate: input.gate, up: input.up } : { x: input };
  if (isGated(input)) checkGated('quantizedLinear', input);
  const x = isGated(input) ? input.gate : input, lead = x.shape.slice(0, -1), inner = x.shape.at(-1)!;
  for (const { weight, lora, bias, residual } of members) {
    const [out] = weight.shape;
    if (inner !== weight.shape[1]) throw shapeError(`quantizedLinear: ${isGated(input) ? 'gate' : 'x'}: expected [...,${weight.shape[1]}] for weight [${weight.shape.join(',')}], got ${shapeText(x)}`);
    if (lora) checkLora('quantizedLinear', lora, weight.shape);
    if (bias) expectShape('quantizedLinear', 'bias', bias, [out]);
    if (residual) expectShape('quantizedLinear', 'residual', residual, [...lead, out]);
  }
  const isMatrix = x.rank === 2; // a reshape costs an op call, which counts where the rows are few
  const count = util.sizeFromShape(lead);
  const rows = (tensor: Tensor): Tensor2D => (isMatrix ? (tensor as Tensor2D) : reshape(tensor, [count, tensor.shape.at(-1)!]));
  const attrs: QuantizedLinearAttrs = { members: members.map(({ weight, lora, unread, gradientNext }) => ({ weight, scale: lora?.scale ?? 0, dropout: lora?.dropout, unread, gradientNext })) };
  const forward: Inputs = Object.fromEntries(Object.entries(given).map(([name, tensor]) => [name, rows(tensor)]));
  const halves = isGated(input) ? [forward.gate!, forward.up!] : [];
  members.forEach(({ lora, bias, residual }, i) =>
    Object.assign(forward, { [`a${i}`]: lora?.a, [`b${i}`]: lora?.b, [`bias${i}`]: bias, [`residual${i}`]: residual && rows(residual) }));
  const branches = members.flatMap(({ lora }, i) => (lora ? [{ index: i, a: lora.a, b: lora.b }] : []));

  const ys = differentiable<Tensor[]>(
    forward,
    (save) => {
      const results = runKernel<Tensor[]>(QuantizedLinear, forward, attrs);
      const x = isGated(input) ? results.shift()! : forward.x!;
      if (branches.length > 0) save([...halves, x, ...branches.flatMap(({ a, b }) => [a, b]), ...results.slice(members.length)]);
      else if (halves.length > 0) save(halves);
      return results.slice(0, members.length);
    },
    (dys, saved) => backward([dys].flat(), saved.slice(0, halves.length), saved.slice(halves.length), branches.map(({ index }) => index), attrs),
  );
  return isMatrix ? ys : ys.map((y) => reshape(y, [...lead, y.shape.at(-1)!]));
}

function backward(dys: Tensor[], halves: Tensor[], [x, ...saved]: Tensor[], branches: number[], attrs: QuantizedLinearAttrs): Record<string, () => Tensor> {
  const byIndex = (name: string, tensors: readonly Tensor[], indices: readonly number[]): Inputs => Object.fromEntries(tensors.map((tensor, i) => [`${name}${indices[i]}`, tensor]));
  const all = byIndex('dy', dys, dys.map((_, i) => i));
  const thunks: Record<string, () => Tensor> = {};
  dys.forEach((dy, i) => {
    thunks[`bias${i}`] = () => sum(dy, 0);
    thunks[`residual${i}`] = () => clone(dy);
  });
  /** The gradient to x, or to the halves that x was made of. */
  const toInput = (inputs: Inputs): Record<string, () => Tensor> => {
    if (halves.length === 0) return { x: () => runKernel<Tensor>(QuantizedLinearGradInput, inputs, attrs) };
    const [gate, up] = halves, [dGate, dUp] = runKernel<Tensor[]>(QuantizedLinearGradInput, { ...inputs, gate, up }, attrs);
    return { gate: () => dGate, up: () => dUp };
  };
  if (branches.length === 0) return { ...thunks, ...toInput(all) };
  const factors = saved.slice(0, 2 * branches.length), hiddens = saved.slice(2 * branches.length, 3 * branches.length), keeps = saved.slice(3 * branches.length);
  const a = byIndex('a', factors.filter((_, i) => i % 2 === 0), branches), b = byIndex('b', factors.filter((_, i) => i % 2 === 1), branches);
  const keep = byIndex('keep', keeps, branches.filter((index) => isDropping(attrs.members[index])));
  const found = runKernel<Tensor[]>(LoraGrad, { x, ...byIndex('dy', branches.map((index) => dys[index]), branches), ...byIndex('hidden', hiddens, branches), ...b, ...keep }, attrs);
  branches.forEach((index, i) => {
    thunks[`a${index}`] = () => found[3 * i];
    thunks[`b${index}`] = () => found[3 * i + 1];
  });
  const dHidden = byIndex('dHidden', branches.map((_, i) => found[3 * i + 2]), branches);
  if (halves.length > 0) x.dispose(); // this op's own, and of no more use: it goes before the halves' gradients come
  return { ...thunks, ...toInput({ ...all, ...dHidden, ...a, ...keep }) };
}

export interface LinearMemberAttrs {
  weight: FrozenWeight;
  /** Of the LoRA branch; 0 without one. */
  scale: number;
  dropout?: DropoutOptions;
  /** y may hold anything. */
  unread?: boolean;
  /** A backend may keep what it made for the product, with `hidden`, until the gradients' kernels. */
  gradientNext?: boolean;
}
export interface QuantizedLinearAttrs {
  members: LinearMemberAttrs[];
}

/** Whether a branch drops at all. */
export const isDropping = ({ dropout }: { dropout?: DropoutOptions }): boolean => dropout !== undefined && dropout.rate > 0;

/**
 * Kernels' inputs carry a member's number: a0, b0, a1, … Those without a number are shared.
 *
 * Kernel: { x [n,in], a, b, bias, residual [n,out] of members that have them }, QuantizedLinearAttrs → [y [n,out] of each member, then of
 * each with a branch hidden [n,rank] = scale · dropout(x)·Aᵀ]. With gate and up [n,in] instead of x, x = silu(gate)·up, which is then the
 * first result, for LoraGrad. A backend for which drawing is dear adds keep (bool [n,in], what
 * dropout keeps) of each branch that drops, and gets it back in the backward kernels.
 */
export const QuantizedLinear = 'TemperQuantizedLinear';

/**
 * Kernel: { x, and of each member with a branch dy [n,out], hidden [n,rank], b, keep? }, QuantizedLinearAttrs → [dA, dB, dHidden
 * [n,rank]] of each of these members; dHidden, scale · dy·B, is for QuantizedLinearGradInput of the same backend alone, which may
 * expect dropout's factor in it.
 */
export const LoraGrad = 'TemperLoraGrad';

/**
 * Kernel: { dy [n,out] of each member, and of those with a branch dHidden, a, keep? }, QuantizedLinearAttrs → dx [n,in] = Σ dy·W +
 * dropout(dHidden·A). With gate and up, what of dx goes to them: [dGate, dUp].
 */
export const QuantizedLinearGradInput = 'TemperQuantizedLinearGradInput';

/** x, or gate and up. */
export type LinearInputs = Record<string, Tensor2D | undefined>;
export type LoraGradInputs = Record<string, Tensor2D | undefined> & { x: Tensor2D };
export type LinearGradInputs = Record<string, Tensor2D | undefined>;

registerPortableKernel<LinearInputs, QuantizedLinearAttrs>(QuantizedLinear, (inputs, { members }) => {
  const { gate, up } = inputs, x = inputs.x ?? runKernel<Tensor2D>(SwiGlu, { gate, up });
  const ys: Tensor[] = [], hiddens: Tensor[] = [], keeps: Tensor[] = [];
  members.forEach(({ weight, scale, dropout, unread }, i) => {
    const { [`a${i}`]: a, [`b${i}`]: b, [`bias${i}`]: bias, [`residual${i}`]: residual } = inputs;
    let y: Tensor = unread ? zeros([x.shape[0], weight.shape[0]]) : matMul(x, dequantize(weight), false, true);
    if (bias) y = add(y, bias);
    if (a && b) {
      const keep = dropout && isDropping({ dropout }) ? dropoutKeep(x.shape, dropout.rate, dropout.key) : undefined;
      const hidden = mul(matMul(dropped(x, keep), a, false, true), scale * inflation(dropout));
      if (!unread) y = add(y, matMul(hidden, b, false, true));
      hiddens.push(hidden);
      if (keep) keeps.push(keep);
    }
    ys.push(residual ? add(residual, y) : y);
  });
  return [...(inputs.x ? [] : [x]), ...ys, ...hiddens, ...keeps];
});

registerPortableKernel<LoraGradInputs, QuantizedLinearAttrs>(LoraGrad, (inputs, { members }) =>
  members.flatMap(({ scale, dropout }, i) => {
    const { x, [`dy${i}`]: dy, [`hidden${i}`]: hidden, [`b${i}`]: b, [`keep${i}`]: keep } = inputs;
    if (!dy || !hidden || !b) return [];
    const dHidden = mul(matMul(dy, b), scale * inflation(dropout));
    return [matMul(dHidden, dropped(x, keep), true, false), matMul(dy, hidden, true, false), dHidden];
  }));

registerPortableKernel<LinearGradInputs, QuantizedLinearAttrs>(QuantizedLinearGradInput, (inputs, { members }) => {
  const { gate, up } = inputs;
  const dx = members
    .map(({ weight }, i) => {
      const { [`dy${i}`]: dy, [`dHidden${i}`]: dHidden, [`a${i}`]: a, [`keep${i}`]: keep } = inputs;
      const dx = matMul(dy!, dequantize(weight));
      return dHidden && a ? add(dx, dropped(matMul(dHidden, a), keep)) : dx;
    })
    .reduce((total, dx) => add(total, dx));
  return gate && up ? runKernel<Tensor[]>(SwiGluGrad, { dy: dx, gate, up }) : dx;
});

/** What dropout multiplies the kept elements by; taken into the narrow matrices, which costs less than in the wide ones. */
const inflation = (dropout?: DropoutOptions): number => (dropout ? dropoutInflation(dropout.rate) : 1);

/** Zeroes what is not kept. Dropout is its own gradient. */
function dropped(x: Tensor2D, keep?: Tensor): Tensor2D {
  if (!keep) return x;
  return (isNative() ? selectNative(keep, x) : mul(x, cast(keep, 'float32'))) as Tensor2D;
}
