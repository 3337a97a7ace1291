import { grads, memory, tensor, tidy, type Tensor } from '@tensorflow/tfjs-core';
import { expect } from 'vitest';

/** An operand: float values with their shape. */
export interface Operand {
  shape: number[];
  values: Float32Array;
}
export type Numbers = ArrayLike<number>;

/** Every run draws other inputs; a failure names the seed, and TEMPER_TEST_SEED repeats it. */
const runSeed = Number(process.env.TEMPER_TEST_SEED ?? Date.now() % 2 ** 31);
let state = runSeed;

/** Uniform in [-1, 1) by a linear congruence (Numerical Recipes): enough for test inputs. */
function draw(): number {
  state = (Math.imul(state, 1664525) + 1013904223) | 0;
  return state / 2 ** 31;
}

/** A random operand; `scale` is its largest magnitude. */
export const random = (shape: number[], scale = 1): Operand => ({
  shape,
  values: Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => draw() * scale),
});

/** A random whole number in [0, below). */
export const randomInt = (below: number): number => Math.floor(((draw() + 1) / 2) * below);

export const toTensor = ({ shape, values }: Operand): Tensor => tensor(values.slice(), shape);

export function expectClose(actual: Numbers, expected: Numbers, tolerance: number, what: string): void {
  expect(actual.length, `${what}: number of values`).toBe(expected.length);
  let largest = 0;
  let worst = 0;
  for (let i = 0; i < expected.length; i++) {
    largest = Math.max(largest, Math.abs(expected[i]));
    const difference = Math.abs(actual[i] - expected[i]);
    worst = Number.isNaN(difference) ? Infinity : Math.max(worst, difference);
  }
  // Where all should be zero but for float32's rounding of values around 1, errors are measured against a hundredth.
  expect(worst / Math.max(largest, 1e-2), `${what}: worst error over largest value, seed ${runSeed}`).toBeLessThan(tolerance);
}

/**
 * Compares an op with a float64 reference: its value, and its gradients with central differences of the reference. Also that
 * nothing leaks.
 * @param operands what gradients flow to, by name
 * @param op on tensors in the order of `operands`
 * @param reference the same on float64 values
 */
export async function checkOp<Names extends string>(options: {
  operands: Record<Names, Operand>;
  op: (tensors: Record<Names, Tensor>) => Tensor;
  reference: (values: Record<Names, Float64Array>) => Numbers;
  tolerance: number;
}): Promise<void> {
  const { operands, op, reference, tolerance } = options;
  const names = Object.keys(operands) as Names[];
  const doubles = Object.fromEntries(names.map((name) => [name, Float64Array.from(operands[name].values)])) as Record<Names, Float64Array>;
  const expected = reference(doubles);
  const dy = random([expected.length]);

  const before = memory().numTensors;
  const inputs = names.map((name) => toTensor(operands[name]));
  const run = (...tensors: Tensor[]): Tensor => op(Object.fromEntries(names.map((name, i) => [name, tensors[i]])) as Record<Names, Tensor>);
  const value = tidy(() => run(...inputs));
  expectClose(await value.data(), expected, tolerance, 'value');
  const gradients = tidy(() => grads(run)(inputs, tensor(dy.values, value.shape)));
  for (const [i, name] of names.entries()) {
    expect(gradients[i].shape, `shape of the gradient to ${name}`).toEqual(operands[name].shape);
    expectClose(await gradients[i].data(), differences(doubles, name, reference, dy.values), 5 * tolerance, `gradient to ${name}`);
  }
  for (const tensor of [...inputs, value, ...gradients]) tensor.dispose();
  expect(memory().numTensors - before, 'tensors left behind').toBe(0);
}

/** d(Σ reference·dy) / d(values of one operand) by central differences in float64. */
function differences<Names extends string>(
  doubles: Record<Names, Float64Array>,
  name: Names,
  reference: (values: Record<Names, Float64Array>) => Numbers,
  dy: Float32Array,
): Float64Array {
  const values = doubles[name];
  const weighted = (): number => Array.from(reference(doubles)).reduce((sum, y, i) => sum + y * dy[i], 0);
  const step = 1e-5;
  return values.map((value, i) => {
    values[i] = value + step;
    const above = weighted();
    values[i] = value - step;
    const below = weighted();
    values[i] = value;
    return (above - below) / (2 * step);
  });
}

/** x [n, k] · w [m, k]ᵀ → [n, m] in float64. */
export function timesTransposed(x: Numbers, w: Numbers, n: number, k: number, m: number): Float64Array {
  const y = new Float64Array(n * m);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < m; j++) {
      for (let l = 0; l < k; l++) y[i * m + j] += x[i * k + l] * w[j * k + l];
    }
  }
  return y;
}
