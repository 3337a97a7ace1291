import { add, cast, clone, matMul, mul, reshape, sum, util, zeros, type Tensor, type Tensor1D, type Tensor2D } from '@tensorflow/tfjs-core';
import { dropoutKeep } from './dropout-mask.js';
import { dropoutInflation } from './dropout-rate.js';
import { dequantize, type FrozenWeight } from './frozen-weight.js';
import { differentiable, registerPortableKernel, runKernel, type Inputs } from './kernel.js';
import { checkLora, type DropoutOptions, type LoraBranch } from './lora.js';
import { isNormed, RmsNorm, RmsNormGrad, type NormedInput } from './rms-norm.js';
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
  /** The gradients are taken soon: what the product of a member with a branch was made with may stay in memory for them. @default false */
  gradientNext?: boolean;
}

/** What layers read: x [..., in], or what x is made of on its way to them. */
export type LayerInput = Tensor | GatedInput | NormedInput;

/**
 * y = x·Wᵀ + bias + residual + scale · dropout(x)·Aᵀ·Bᵀ, with W frozen: gradients flow to x, A, B, the bias and the residual only.
 * @param x [..., in]
 * @returns [..., out]
 */
export const quantizedLinear = (x: Tensor, weight: FrozenWeight, options: QuantizedLinearOptions = {}): Tensor => quantizedLinears(x, [{ weight, ...options }])[0];

/**
 * The same for several layers of one input, whose passes over x and whose gradients to it are then made together.
 * @param input x [..., in]; or the halves of a gated activation, or a stream and its norm, from which x is made where the layers read it,
 * and to which its gradient goes on
 * @returns [..., out] of each member; of a normed input the stream itself comes before them, for what goes on past the layers: the
 * gradients of both are summed as they are made
 */
export function quantizedLinears(input: LayerInput, members: readonly LinearMember[]): Tensor[] {
  const given = isGated(input) ? input.gate : isNormed(input) ? input.x : input, lead = given.shape.slice(0, -1), inner = given.shape.at(-1)!;
  if (isGated(input)) checkGated('quantizedLinear', input);
  if (isNormed(input)) expectShape('quantizedLinear', 'norm', input.norm, [inner]);
  for (const { weight, lora, bias, residual } of members) {
    const [out] = weight.shape;
    if (inner !== weight.shape[1]) throw shapeError(`quantizedLinear: ${isGated(input) ? 'gate' : 'x'}: expected [...,${weight.shape[1]}] for weight [${weight.shape.join(',')}], got ${shapeText(given)}`);
    if (lora) checkLora('quantizedLinear', lora, weight.shape);
    if (bias) expectShape('quantizedLinear', 'bias', bias, [out]);
    if (residual) expectShape('quantizedLinear', 'residual', residual, [...lead, out]);
  }
  const isMatrix = given.rank === 2; // a reshape costs an op call, which counts where the rows are few
  const count = util.sizeFromShape(lead);
  const rows = (tensor: Tensor): Tensor2D => (isMatrix ? (tensor as Tensor2D) : reshape(tensor, [count, tensor.shape.at(-1)!]));
  const attrs: QuantizedLinearAttrs = { members: members.map(({ weight, lora, unread, gradientNext }) => ({ weight, scale: lora?.scale ?? 0, dropout: lora?.dropout, unread, gradientNext })), eps: isNormed(input) ? input.eps : undefined };
  const forward: Inputs = isGated(input) ? { gate: rows(input.gate), up: rows(input.up) } : { x: rows(given) };
  members.forEach(({ lora, bias, residual }, i) =>
    Object.assign(forward, { [`a${i}`]: lora?.a, [`b${i}`]: lora?.b, [`bias${i}`]: bias, [`residual${i}`]: residual && rows(residual) }));
  /** What x is made of. */
  const source: Record<string, Tensor> = isGated(input) ? { gate: forward.gate!, up: forward.up! } : isNormed(input) ? { x: forward.x!, norm: input.norm } : {};
  const names = Object.keys(source), isMade = names.length > 0;
  const branches = members.flatMap(({ lora }, i) => (lora ? [{ index: i, a: lora.a, b: lora.b }] : []));

  const ys = differentiable<Tensor[]>(
    forward,
    (save) => {
      const results = runKernel<Tensor[]>(QuantizedLinear, { ...forward, ...source }, attrs);
      const x = isMade ? results.shift()! : forward.x!;
      if (branches.length > 0) save([...Object.values(source), x, ...branches.flatMap(({ a, b }) => [a, b]), ...results.slice(members.length)]);
      else if (isMade) save(Object.values(source));
      const ys = results.slice(0, members.length);
      return isNormed(input) ? [clone(forward.x!), ...ys] : ys;
    },
    (gradients, saved) => {
      const dys = [gradients].flat(), from: Inputs = Object.fromEntries(names.map((name, i) => [name, saved[i]]));
      if (isNormed(input)) from.skip = dys.shift();
      return backward(dys, from, saved.slice(names.length), branches.map(({ index }) => index), attrs);
    },
  );
  return isMatrix ? ys : ys.map((y) => reshape(y, [...lead, y.shape.at(-1)!]));
}

/** @param source what x was made of, if it was, and the gradient that its stream has already */
function backward(dys: Tensor[], source: Inputs, [x, ...saved]: Tensor[], branches: number[], attrs: QuantizedLinearAttrs): Record<string, () => Tensor> {
  const byIndex = (name: string, tensors: readonly Tensor[], indices: readonly number[]): Inputs => Object.fromEntries(tensors.map((tensor, i) => [`${name}${indices[i]}`, tensor]));
  const all = byIndex('dy', dys, dys.map((_, i) => i));
  const thunks: Record<string, () => Tensor> = {};
  dys.forEach((dy, i) => {
    thunks[`bias${i}`] = () => sum(dy, 0);
    thunks[`residual${i}`] = () => clone(dy);
  });
  /** The gradient to x, or to what it was made of. */
  const toInput = (inputs: Inputs): Record<string, () => Tensor> => {
    const run = <T extends Tensor | Tensor[]>(): T => runKernel<T>(QuantizedLinearGradInput, { ...inputs, ...source }, attrs);
    if (!source.gate) return { x: () => run<Tensor>() };
    const [dGate, dUp] = run<Tensor[]>();
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
  if (source.gate || source.norm) x.dispose(); // this op's own, and of no more use: it goes before further gradients come
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
  /** Of a normed input. */
  eps?: number;
}

/** Whether a branch drops at all. */
export const isDropping = ({ dropout }: { dropout?: DropoutOptions }): boolean => dropout !== undefined && dropout.rate > 0;

/**
 * Kernels' inputs carry a member's number: a0, b0, a1, … Those without a number are shared.
 *
 * Kernel: { x [n,in], a, b, bias, residual [n,out] of members that have them }, QuantizedLinearAttrs → [y [n,out] of each member, then of
 * each with a branch hidden [n,rank] = scale · dropout(x)·Aᵀ]. With gate and up [n,in] instead of x, the layers read silu(gate)·up,
 * with norm [in] rmsNorm(x, norm, eps), which is then the first result, for LoraGrad. A backend for which drawing is dear adds keep
 * (bool [n,in], what dropout keeps) of each branch that drops, and gets it back in the backward kernels.
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
 * dropout(dHidden·A). With gate and up, what of dx goes to them: [dGate, dUp]. With x, norm and skip [n,in], what of it goes to the x
 * before the norm, plus `skip`.
 */
export const QuantizedLinearGradInput = 'TemperQuantizedLinearGradInput';

/** x, or gate and up, or x and norm. */
export type LinearInputs = Record<string, Tensor2D | undefined>;
export type LoraGradInputs = Record<string, Tensor2D | undefined> & { x: Tensor2D };
export type LinearGradInputs = Record<string, Tensor2D | undefined>;

registerPortableKernel<LinearInputs, QuantizedLinearAttrs>(QuantizedLinear, (inputs, { members, eps }) => {
  const { gate, up, norm } = inputs;
  const made = gate ? runKernel<Tensor2D>(SwiGlu, { gate, up }) : norm && runKernel<Tensor2D>(RmsNorm, { x: inputs.x, weight: norm }, { eps }), x = made ?? inputs.x!;
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
  return [...(made ? [made] : []), ...ys, ...hiddens, ...keeps];
});

registerPortableKernel<LoraGradInputs, QuantizedLinearAttrs>(LoraGrad, (inputs, { members }) =>
  members.flatMap(({ scale, dropout }, i) => {
    const { x, [`dy${i}`]: dy, [`hidden${i}`]: hidden, [`b${i}`]: b, [`keep${i}`]: keep } = inputs;
    if (!dy || !hidden || !b) return [];
    const dHidden = mul(matMul(dy, b), scale * inflation(dropout));
    return [matMul(dHidden, dropped(x, keep), true, false), matMul(dy, hidden, true, false), dHidden];
  }));

registerPortableKernel<LinearGradInputs, QuantizedLinearAttrs>(QuantizedLinearGradInput, (inputs, { members, eps }) => {
  const { gate, up, x, norm, skip } = inputs;
  const dx = members
    .map(({ weight }, i) => {
      const { [`dy${i}`]: dy, [`dHidden${i}`]: dHidden, [`a${i}`]: a, [`keep${i}`]: keep } = inputs;
      const dx = matMul(dy!, dequantize(weight));
      return dHidden && a ? add(dx, dropped(matMul(dHidden, a), keep)) : dx;
    })
    .reduce((total, dx) => add(total, dx));
  if (norm) return runKernel<Tensor>(RmsNormGrad, { dy: dx, x, weight: norm, skip }, { eps });
  return gate ? runKernel<Tensor[]>(SwiGluGrad, { dy: dx, gate, up }) : dx;
});

/** What dropout multiplies the kept elements by; taken into the narrow matrices, which costs less than in the wide ones. */
const inflation = (dropout?: DropoutOptions): number => (dropout ? dropoutInflation(dropout.rate) : 1);

/** Zeroes what is not kept. Dropout is its own gradient. */
function dropped(x: Tensor2D, keep?: Tensor): Tensor2D {
  if (!keep) return x;
  return (isNative() ? selectNative(keep, x) : mul(x, cast(keep, 'float32'))) as Tensor2D;
}
