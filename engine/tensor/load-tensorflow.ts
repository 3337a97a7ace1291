import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import type * as nodeUtil from 'node:util';
import { backend, setBackend } from '@tensorflow/tfjs-core';

const require = createRequire(import.meta.url);
type Loaded = { available: true; description: string } | { available: false; reason: string };
let loaded: Promise<Loaded> | undefined;

/**
 * Loads libtensorflow once: the build with GPU kernels when it is set up and the machine has an NVIDIA driver, else the one
 * without. Only one fits into a process, so a GPU build that finds no usable GPU stays and computes on the CPU, and says so.
 */
export const loadTensorflow = (): Promise<Loaded> => (loaded ??= load());

async function load(): Promise<Loaded> {
  const gpuBuild = bindingOf('@tensorflow/tfjs-node-gpu') !== undefined && existsSync('/proc/driver/nvidia');
  const name = gpuBuild ? '@tensorflow/tfjs-node-gpu' : '@tensorflow/tfjs-node';
  if (!bindingOf(name)) return { available: false, reason: 'libtensorflow is not set up here (run `npm run setup`)' };
  // Information and warnings of the library; errors still show.
  process.env.TF_CPP_MIN_LOG_LEVEL ??= '2';
  // Node 23 removed what tfjs-node 4.22 calls.
  const util = require('node:util') as typeof nodeUtil & { isNullOrUndefined?: (value: unknown) => boolean };
  util.isNullOrUndefined ??= (value) => value === null || value === undefined;
  try {
    require(name);
  } catch (error) {
    return { available: false, reason: `libtensorflow did not load: ${(error as Error).message.split('\n')[0]}` };
  }
  await setBackend('tensorflow');
  return { available: true, description: describe(gpuBuild) };
}

function describe(gpuBuild: boolean): string {
  const { isUsingGpuDevice, binding } = backend() as unknown as { isUsingGpuDevice: boolean; binding: { TF_Version: string } };
  const library = `tensorflow: libtensorflow ${binding.TF_Version}`;
  if (isUsingGpuDevice) return `${library} on the GPU`;
  return `${library} on the CPU${gpuBuild ? '; its GPU build found no GPU that it can use' : ''}`;
}

/** Path of the package's native binding, when both the package and the binding are there. */
function bindingOf(name: string): string | undefined {
  try {
    const path = join(dirname(require.resolve(`${name}/package.json`)), 'lib', 'napi-v8', 'tfjs_binding.node');
    return existsSync(path) ? path : undefined;
  } catch {
    return undefined;
  }
}
