import type { BinaryFile } from './binary-file.js';

/** A tensor as a view of elements that lie in a file. */
export interface StridedTensor {
  /** Of the storage, in the file. */
  start: number;
  elementBytes: number;
  /** Of the first element in the storage. Offset and strides are counted in elements. */
  offset: number;
  shape: readonly number[];
  strides: readonly number[];
}

/** Runs of at least this many bytes are worth a read of their own. */
const longRun = 4096;
/** Elements scattered wider than this times their own size are read one by one. */
const widestSpan = 2;

/**
 * Fills `target` with a tensor's elements in row-major order. Beside the target at most twice its size is held.
 * @param target exactly the tensor's bytes
 */
export async function readStrided(file: BinaryFile, tensor: StridedTensor, target: Buffer): Promise<void> {
  if (target.length === 0) return;
  const { start, elementBytes, offset } = tensor;
  const axes = mergedAxes(tensor);
  const inner = axes.at(-1)?.stride === 1 ? axes.pop()!.size : 1;
  const runBytes = inner * elementBytes;
  const base = start + offset * elementBytes;
  const span = (axes.reduce((sum, { size, stride }) => sum + (size - 1) * stride, 0) + inner) * elementBytes;

  if (runBytes >= longRun || runBytes === target.length || span > widestSpan * target.length) {
    for (const { at, from } of runs(axes, runBytes, elementBytes)) await file.fill(target.subarray(at, at + runBytes), base + from);
    return;
  }
  const source = Buffer.allocUnsafe(span);
  await file.fill(source, base);
  for (const { at, from } of runs(axes, runBytes, elementBytes)) source.copy(target, at, from, from + runBytes);
}

interface Axis {
  size: number;
  stride: number;
}

/** Without axes of one element, and with those joined that step through memory as one. */
function mergedAxes({ shape, strides }: StridedTensor): Axis[] {
  const axes: Axis[] = [];
  shape.forEach((size, i) => {
    const outer = axes.at(-1);
    if (size === 1) return;
    if (outer && outer.stride === strides[i] * size) axes[axes.length - 1] = { size: outer.size * size, stride: strides[i] };
    else axes.push({ size, stride: strides[i] });
  });
  return axes;
}

/** Where each run of neighbours goes, and where it comes from, in bytes. */
function* runs(axes: readonly Axis[], runBytes: number, elementBytes: number): Generator<{ at: number; from: number }> {
  const index = axes.map(() => 0);
  for (let at = 0, from = 0; ; at += runBytes) {
    yield { at, from: from * elementBytes };
    let axis = axes.length - 1;
    for (; axis >= 0; axis--) {
      from += axes[axis].stride;
      if (++index[axis] < axes[axis].size) break;
      from -= axes[axis].size * axes[axis].stride;
      index[axis] = 0;
    }
    if (axis < 0) return;
  }
}
