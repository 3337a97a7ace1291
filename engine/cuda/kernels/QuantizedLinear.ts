import {
  LoraGrad, QuantizedLinear, QuantizedLinearGradInput,
  type LoraGradInputs, type QuantizedLinearAttrs, type QuantizedLinearGradInputInputs, type QuantizedLinearInputs,
} from '../../tensor/quantized-linear.js';
import { cudaKernel } from '../backend.js';
import { inputGradient, linear, loraDown, loraGradients } from '../lora-branch.js';
import { binaryProgram } from '../programs/elementwise.cu.js';

/** y and hidden in bf16, accumulated in float32. */
export const quantizedLinearKernel = cudaKernel<QuantizedLinearInputs, QuantizedLinearAttrs>(
  QuantizedLinear,
  ({ inputs: { x, a, b, bias }, attrs: { weight, scale, dropout }, backend }) => {
    const [rows, inner] = x.shape, [columns] = weight.shape;
    const y = backend.make([rows, columns], 'float32', 'bf16', 'a linear layer');
    return backend.with('bf16', [x], (converted) => {
      const input = backend.matrix(converted, rows, inner), out = backend.matrix(y, rows, columns);
      const hidden = a && b && loraDown(backend, input, a, scale, { options: dropout });
      linear(backend, out, input, weight, hidden && b && { hidden, b });
      if (bias) {
        const size = rows * columns;
        backend.launch(binaryProgram('Add', 'a + b', 'bf16', backend.format(bias), 'bf16', { size, broadcast: { shape: [rows, columns], a: [columns, 1], b: [0, 1] } }), [
          backend.pointer(y), backend.pointer(y), backend.pointer(bias), { i64: size }, { f32: 0 }, rows, columns, columns, 1, 0, 1,
        ]);
      }
      return hidden ? [y, hidden] : [y];
    });
  },
);

/** dA and dB in float32, dHidden in bf16. */
export const loraGradKernel = cudaKernel<LoraGradInputs, QuantizedLinearAttrs>(LoraGrad, ({ inputs: { dy, x, hidden, b }, attrs: { scale, dropout }, backend }) =>
  backend.with('bf16', [dy, x, hidden], (gradient, input, low) => {
    const [rows, columns] = dy.shape, inner = x.shape[1], rank = b.shape[1];
    const dA = backend.make([rank, inner], 'float32', 'f32', 'the gradient of A');
    const dB = backend.make(b.shape, 'float32', 'f32', 'the gradient of B');
    const dHidden = loraGradients(backend, { dy: backend.matrix(gradient, rows, columns), x: backend.matrix(input, rows, inner), hidden: low, b, dA, dB }, scale, { options: dropout });
    return [dA, dB, dHidden];
  }));

export const quantizedLinearGradInputKernel = cudaKernel<QuantizedLinearGradInputInputs, QuantizedLinearAttrs>(
  QuantizedLinearGradInput,
  ({ inputs: { dy, dHidden, a }, attrs: { weight, dropout }, backend }) => {
    const [rows, columns] = dy.shape, inner = weight.shape[1];
    const dx = backend.make([rows, inner], 'float32', 'bf16', 'the gradient of a linear layer');
    backend.with('bf16', [dy], (gradient) => 
      inputGradient(backend, backend.matrix(dx, rows, inner), backend.matrix(gradient, rows, columns), weight, dHidden && a ? { dHidden, a } : undefined, { options: dropout }));
    return dx;
  },
);
