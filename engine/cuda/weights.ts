import { util } from '@tensorflow/tfjs-core';
import type { FrozenWeight, Int8Weight, Nf4Weight } from '../tensor/weight-types.js';
import type { CudaBackend } from './backend.js';
import type { MatrixOperand } from './cublas-lt.js';
import type { Format } from './program.js';
import { dequantizeInt8Program, dequantizeNf4Program } from './programs/dequantize.cu.js';

/** Share of the device's memory that must stay free for another dequantised copy to be kept. */
const FREE_SHARE = 0.5;

/** Hands over a frozen matrix in bf16: its own values, a kept copy, or one that lasts as long as `use`. */
export function withWeight<T>(backend: CudaBackend, weight: FrozenWeight, use: (matrix: MatrixOperand) => T): T {
  const [rows, columns] = weight.shape;
  const operand = (address: number): MatrixOperand => ({ address, format: 'bf16', rows, columns });
  const plain = weight.kind === 'dense' ? weight.value : weight.resident;
  if (plain) {
    // Products take bf16 operands, so float32 values would only be rounded anew each time.
    backend.convert(plain, 'bf16');
    return use(operand(backend.address(plain)));
  }
  const quantized = weight as Nf4Weight | Int8Weight;
  const bytes = 2 * rows * columns;
  const kept = backend.findCompanion(quantized.codes, COPY);
  if (kept) return use(operand(kept.address));
  if (maySpend(backend, bytes)) {
    return use(operand(backend.companion(quantized.codes, COPY, bytes, ({ address }) => dequantizeInto(backend, quantized, address, 'bf16')).address));
  }
  return backend.scratch(bytes, `a dequantised matrix [${rows},${columns}]`, (address) => {
    dequantizeInto(backend, quantized, address, 'bf16');
    return use(operand(address));
  });
}

const COPY = 'the bf16 copy of a quantised matrix';

function maySpend(backend: CudaBackend, bytes: number): boolean {
  if (backend.keepDequantized !== 'auto') return backend.keepDequantized === 'always';
  const { free, total } = backend.device.memoryInfo();
  return free - bytes >= total * FREE_SHARE;
}

/** Writes the values that the codes stand for. */
export function dequantizeInto(backend: CudaBackend, weight: Nf4Weight | Int8Weight, address: number, to: Format): void {
  const size = util.sizeFromShape(weight.shape);
  const out = { pointer: address };
  if (weight.kind === 'int8') {
    backend.launch(dequantizeInt8Program(to, size), [out, backend.pointer(weight.codes), backend.pointer(weight.absmax), { i64: size }, { i64: weight.shape[1] }]);
    return;
  }
  const { absmax } = weight;
  const scales = absmax.nested ? absmax.absmax : absmax.values;
  backend.launch(dequantizeNf4Program(to, size), [
    out, backend.pointer(weight.codes), backend.pointer(scales), absmax.nested ? backend.pointer(absmax.codes) : { pointer: 0 }, { f32: absmax.nested ? absmax.offset : 0 }, { i64: size },
  ]);
}
