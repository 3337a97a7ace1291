import '@tensorflow/tfjs'; // registers every gradient with the tfjs-core of this process
import { env, ready, setBackend } from '@tensorflow/tfjs-core';
import { EngineError } from '../errors.js';
import './all-ops.js';
import { loadTensorflow } from './load-tensorflow.js';
import { registerWasmSegmentSum } from './wasm-segment-sum.js';

export type BackendName = 'cuda' | 'tensorflow' | 'wasm' | 'cpu';

export interface BackendChoice {
  name: BackendName;
  /** One line for people; says whether a GPU is really used, and why a better backend is not. */
  description: string;
}

/** Makes a backend available and tells what it is, or why it cannot be. */
export type BackendProvider = () => Promise<{ available: true; description: string } | { available: false; reason: string }>;

const providers = new Map<BackendName, BackendProvider>([
  ['tensorflow', loadTensorflow],
  ['wasm', loadWasm],
  ['cpu', loadCpu],
]);

/** Adds a backend from outside this folder. It is chosen when it is named; `preferred`: also before all others. */
export function registerBackendProvider(name: BackendName, provider: BackendProvider, options: { preferred?: boolean } = {}): void {
  providers.set(name, provider);
  if (options.preferred) preference = [name, ...preference.filter((other) => other !== name)];
}

/** Best first. */
let preference: BackendName[] = ['tensorflow', 'wasm', 'cpu'];

/**
 * Makes a backend the current one, with tfjs's gradients and Temper's ops on it.
 * @param wanted this one or none @default the best available: tensorflow, then wasm, then cpu
 */
export async function selectBackend(wanted?: BackendName): Promise<BackendChoice> {
  env().set('PROD', true); // no advertisement for other backends on the console
  const reasons: string[] = [];
  for (const name of wanted ? [wanted] : preference) {
    const result = (await providers.get(name)?.()) ?? { available: false as const, reason: 'not part of this program' };
    if (result.available && (await setBackend(name))) {
      await ready();
      return { name, description: [result.description, ...reasons].join('; ') };
    }
    reasons.push(`${name} is not used: ${result.available ? 'it failed to start' : result.reason}`);
  }
  throw new EngineError('invalidInput', 'no_backend', `backend: ${reasons.join('; ')}`);
}

async function loadWasm(): ReturnType<BackendProvider> {
  const { setThreadsCount } = await import('@tensorflow/tfjs-backend-wasm');
  setThreadsCount(1); // its worker threads need a browser
  registerWasmSegmentSum();
  return { available: true, description: 'wasm: WebAssembly with SIMD, one core' };
}

async function loadCpu(): ReturnType<BackendProvider> {
  return { available: true, description: 'cpu: plain JavaScript, for small tests' };
}
