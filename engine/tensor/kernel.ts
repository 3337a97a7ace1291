import { engine, registerKernel, tidy, type Tensor } from '@tensorflow/tfjs-core';

/**
 * The one place where tfjs's loose kernel types are cast. A custom op is: checks, a kernel for the forward pass, a kernel
 * for the backward pass, and a composed implementation of both for the backends below. A backend of its own (`cuda`)
 * registers fused kernels under the same names.
 */
export type Inputs = Record<string, Tensor | undefined>;
type Present = Record<string, Tensor>;

/** Backends that run the composed kernels. */
const portableBackends = ['tensorflow', 'wasm', 'cpu'] as const;

/** Registers a composed kernel for every portable backend. Intermediates are disposed; ops inside are not recorded on the tape. */
export function registerPortableKernel<I extends Inputs, A extends object>(
  name: string,
  compute: (inputs: I, attrs: A) => Tensor | Tensor[],
): void {
  for (const backendName of portableBackends) {
    registerKernel({
      kernelName: name,
      backendName,
      kernelFunc: ({ inputs, attrs }) => tidy(() => compute(inputs as unknown as I, attrs as unknown as A)),
    });
  }
}

/** Runs a registered kernel on the current backend; absent inputs are left out. */
export function runKernel<R extends Tensor | Tensor[]>(name: string, inputs: Inputs, attrs: object = {}): R {
  return engine().runKernel(name, present(inputs), attrs as never) as unknown as R;
}

interface Recorder {
  runKernelFunc(op: {
    inputs: Present;
    forwardFunc: (backend: unknown, save: (tensors: Tensor[]) => void) => Tensor | Tensor[];
    backwardsFunc: (dy: Tensor | Tensor[], saved: Tensor[]) => Record<string, () => Tensor>;
  }): Tensor | Tensor[];
  isTapeOn(): boolean;
}

/** True when a gradient is being recorded, so that a forward kernel may prepare for the backward pass. */
export const isRecording = (): boolean => (engine() as unknown as Recorder).isTapeOn();

/**
 * Runs `forward` as one node of the gradient tape. `inputs` are what a gradient may flow to; `backward` returns one thunk
 * for each, called only when the gradient is needed. What `forward` saves is kept until the gradient is taken. Of several results
 * each has its gradient in `dy`, zeros where nothing depends on it; of a single one `dy` is no list.
 */
export function differentiable<T extends Tensor | Tensor[]>(
  inputs: Inputs,
  forward: (save: (tensors: Tensor[]) => void) => T,
  backward: (dy: T extends Tensor[] ? Tensor | Tensor[] : T, saved: Tensor[]) => Record<string, () => Tensor>,
): T {
  return (engine() as unknown as Recorder).runKernelFunc({
    inputs: present(inputs),
    forwardFunc: (_backend, save) => forward(save),
    backwardsFunc: (dy, saved) => backward(dy as never, saved),
  }) as T;
}

const present = (inputs: Inputs): Present =>
  Object.fromEntries(Object.entries(inputs).filter((entry): entry is [string, Tensor] => entry[1] !== undefined));
