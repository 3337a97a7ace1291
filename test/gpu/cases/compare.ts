import { dispose, grads, mul, setBackend, sum, tensor, tidy, type Tensor } from '@tensorflow/tfjs-core';
import { philoxWords } from '../../../engine/random/philox.js';

/** One comparison of an op on `cuda` with the composed kernels on `cpu`, on the same fresh random inputs. */
export interface GpuCase {
  name: string;
  /** Largest ‖out − reference‖ / ‖reference‖ of any output. @default 1e-2, for bf16 operands */
  tolerance?: number;
  /** Builds inputs from `random` and gives the outputs to compare; must draw the same on every backend. */
  run(random: Random): Tensor[];
}

/** Uniform values in ±scale, the same for one seed on every backend. */
export class Random {
  private stream = 0;
  constructor(private readonly seed: number) {}

  values(count: number, scale = 1): Float32Array {
    return Float32Array.from(philoxWords({ seed: this.seed, step: 0, stream: this.stream++ }, count), (word) => ((word + 0.5) / 2 ** 31 - 1) * scale);
  }

  tensor<T extends Tensor = Tensor>(shape: number[], scale = 1): T {
    return tensor(this.values(shape.reduce((a, b) => a * b, 1), scale), shape) as T;
  }

  /** int32 below `limit`. */
  integers<T extends Tensor = Tensor>(shape: number[], limit: number): T {
    const words = philoxWords({ seed: this.seed, step: 0, stream: this.stream++ }, shape.reduce((a, b) => a * b, 1));
    return tensor(Int32Array.from(words, (word) => word % limit), shape, 'int32') as T;
  }
}

/** The op's value and its gradients to the inputs, for a random gradient of the value. */
export function withGradients(random: Random, inputs: Tensor[], op: (...inputs: Tensor[]) => Tensor): Tensor[] {
  const value = op(...inputs);
  const weight = random.tensor(value.shape);
  return [value, ...grads((...xs: Tensor[]) => sum(mul(op(...xs), weight)))(inputs)];
}

/** @returns the largest relative error of any output; NaN anywhere gives Infinity */
export async function worstError({ run }: GpuCase, seed: number): Promise<number> {
  const outputs: Float32Array[][] = [];
  for (const backend of ['cpu', 'cuda']) {
    await setBackend(backend);
    const tensors = tidy(() => run(new Random(seed)));
    outputs.push(await Promise.all(tensors.map(async (result) => Float32Array.from(await result.data()))));
    dispose(tensors);
  }
  return Math.max(0, ...outputs[0].map((reference, i) => relativeError(outputs[1][i], reference)));
}

function relativeError(out: Float32Array, reference: Float32Array): number {
  if (out.length !== reference.length) return Infinity;
  let difference = 0, norm = 0;
  for (let i = 0; i < out.length; i++) {
    difference += (out[i] - reference[i]) ** 2;
    norm += reference[i] ** 2;
  }
  if (difference === 0) return 0;
  // Where the reference is zero but for rounding, the error is measured against values of a thousandth.
  const error = Math.sqrt(difference / Math.max(norm, 1e-6 * reference.length));
  return Number.isNaN(error) ? Infinity : error;
}
