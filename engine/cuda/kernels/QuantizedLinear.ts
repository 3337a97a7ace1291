import type { TensorInfo } from '@tensorflow/tfjs-core';
import {
  LoraGrad, QuantizedLinear, QuantizedLinearGradInput, type LinearGradInputs, type LinearInputs, type LinearMemberAttrs, type LoraGradInputs, type QuantizedLinearAttrs,
} from '../../tensor/quantized-linear.js';
import { cudaKernel, type CudaBackend } from '../backend.js';
import type { MatrixOperand } from '../cublas-lt.js';
import { branchesDown, branchGradients, fitsRoom, gatedInputGradients, inputGradients, linears, normedInputGradient, roomyLinears, takesRoomy, type Branch } from '../lora-branch.js';
import type { Format } from '../program.js';
import { binaryProgram } from '../programs/elementwise.cu.js';
import { rmsNorm } from '../rms-norm.js';
import { heldCopy, mayHold, mayJoin } from '../weights.js';

/** Runs with those of the named inputs that are there in the wanted format, by name. */
function withNamed<T>(backend: CudaBackend, format: Format, inputs: Record<string, TensorInfo | undefined>, names: readonly string[], use: (converted: Record<string, TensorInfo>) => T): T {
  const present = names.filter((name) => inputs[name]);
  return backend.with(format, present.map((name) => inputs[name]!), (...converted) => use(Object.fromEntries(present.map((name, i) => [name, converted[i]]))));
}

const branchOf = ({ weight: { shape: [out, inner] }, scale, dropout }: LinearMemberAttrs, rank: number): Branch => ({ rank, inner, out, scale, dropout });

/** x with the room that it may have at the ends of its rows, where all of the branches' kernels can take that. */
const inputOf = (backend: CudaBackend, x: TensorInfo, rows: number, inner: number, branches: readonly Branch[]): MatrixOperand =>
  takesRoomy(branches) ? backend.rowsOf(x, rows, inner) : backend.matrix(x, rows, inner);

/** Every y and hidden in bf16, accumulated in float32. */
export const quantizedLinearKernel = cudaKernel<LinearInputs, QuantizedLinearAttrs>(QuantizedLinear, ({ inputs, attrs: { members, eps }, backend }) => {
  const [rows, inner] = (inputs.x ?? inputs.gate)!.shape;
  const normed = inputs.norm && rmsNorm(backend, { x: inputs.x!, weight: inputs.norm }, { eps: eps!, forLinears: true });
  const isRead = members.some(({ unread }) => !unread);
  const outs = members.map(({ weight }) => weight.shape[0]), shapes = outs.map((out) => [rows, out]);
  const ys = isRead && mayJoin(backend, outs, rows) ? backend.makeTogether(shapes, 'a linear layer') : shapes.map((shape, i) => {
    const residual = inputs[`residual${i}`];
    return residual && !isRead ? backend.view(residual, shape) : backend.make(shape, 'float32', 'bf16', 'a linear layer'); // what nobody reads takes no memory of its own
  });
  return withNamed(backend, 'bf16', { ...inputs, x: normed ?? inputs.x }, ['x', 'gate', 'up', ...members.map((_, i) => `residual${i}`)], ({ x: given, gate, up, ...residuals }) => {
    const branches = members.map((member, i) => {
      const a = inputs[`a${i}`], b = inputs[`b${i}`];
      return a && b && { ...branchOf(member, a.shape[0]), a, b };
    });
    const present = branches.filter((branch) => branch !== undefined);
    const isRoomy = inner % 8 === 0 && takesRoomy(present);
    const x = given ?? (isRoomy ? backend.makeRoomy([rows, inner], 'a gated input') : backend.make([rows, inner], 'float32', 'bf16', 'a gated input'));
    const input = inputOf(backend, x, rows, inner, present), place = isRead && fitsRoom(input, present, members.map(({ weight }) => weight));
    const hiddens = branchesDown(backend, input, present, { place, halves: given ? undefined : { gate, up } });
    const results = [...(normed ? [normed] : given ? [] : [x]), ...ys, ...hiddens];
    if (!isRead) return results;
    withNamed(backend, 'f32', inputs, members.map((_, i) => `bias${i}`), (biases) => {
      const products = members.map(({ weight, gradientNext }, i) => {
        const branch = branches[i], residual = residuals[`residual${i}`], hidden = branch && hiddens[present.indexOf(branch)];
        return {
          y: backend.matrix(ys[i], rows, weight.shape[0]), weight, bias: biases[`bias${i}`] as TensorInfo | undefined,
          branch: branch && hidden && { ...branch, hidden }, residual: residual && backend.address(residual),
          holder: gradientNext && mayHold(weight, rows) ? hidden : undefined,
        };
      });
      for (const { y, bias } of (place ? roomyLinears : linears)(backend, input, products)) addBias(backend, y.address, bias!, rows, y.columns);
    });
    return results;
  });
});

function addBias(backend: CudaBackend, y: number, bias: TensorInfo, rows: number, columns: number): void {
  const size = rows * columns, out = { pointer: y };
  backend.launch(binaryProgram('Add', 'a + b', 'bf16', 'f32', 'bf16', { size, broadcast: { shape: [rows, columns], a: [columns, 1], b: [0, 1] } }), [
    out, out, backend.pointer(bias), { i64: size }, { f32: 0 }, rows, columns, columns, 1, 0, 1,
  ]);
}

/** Every dA and dB in float32, dHidden in bf16. */
export const loraGradKernel = cudaKernel<LoraGradInputs, QuantizedLinearAttrs>(LoraGrad, ({ inputs, attrs: { members }, backend }) => {
  const [rows, inner] = inputs.x.shape;
  return withNamed(backend, 'bf16', inputs, ['x', ...members.map((_, i) => `dy${i}`)], ({ x, ...dys }) => {
    const branches = members.flatMap((member, i) => {
      const dy = dys[`dy${i}`], hidden = inputs[`hidden${i}`], b = inputs[`b${i}`];
      if (!dy || !hidden || !b) return [];
      const dA = backend.make([b.shape[1], inner], 'float32', 'f32', 'the gradient of A');
      const dB = backend.make(b.shape, 'float32', 'f32', 'the gradient of B');
      return [{ ...branchOf(member, b.shape[1]), b, hidden, dy: backend.rowsOf(dy, rows, b.shape[0]), dA, dB }];
    });
    const dHiddens = branchGradients(backend, inputOf(backend, x, rows, inner, branches), branches);
    return branches.flatMap(({ dA, dB }, i) => [dA, dB, dHiddens[i]]);
  });
});

export const quantizedLinearGradInputKernel = cudaKernel<LinearGradInputs, QuantizedLinearAttrs>(QuantizedLinearGradInput, ({ inputs, attrs: { members, eps }, backend }) => {
  const [rows] = inputs.dy0!.shape, inner = members[0].weight.shape[1];
  return withNamed(backend, 'bf16', inputs, ['gate', 'up', ...members.map((_, i) => `dy${i}`)], ({ gate, up, ...dys }) => {
    const shares = members.map((member, i) => {
      const dHidden = inputs[`dHidden${i}`], a = inputs[`a${i}`], { weight } = member;
      return {
        dy: backend.rowsOf(dys[`dy${i}`], rows, weight.shape[0]), weight: (dHidden && heldCopy(backend, weight, dHidden)) ?? weight,
        branch: dHidden && a && { ...branchOf(member, a.shape[0]), dHidden, a },
      };
    });
    const { x, norm, skip } = inputs;
    if (x && norm && skip) return normedInputGradient(backend, { x, norm, skip, eps: eps! }, shares);
    if (gate && up) return gatedInputGradients(backend, { gate, up }, shares);
    const dx = backend.make([rows, inner], 'float32', 'bf16', 'the gradient of a linear layer');
    inputGradients(backend, backend.matrix(dx, rows, inner), shares);
    return dx;
  });
});
