import { ok, problem, type Finding } from './check.js';

/** A library that loads, or why it does not; as engine/cuda/inspect.ts reports it. */
type LibraryFacts = { version: string; path: string } | { problem: string; advice: string };

/** What the engine found of CUDA on this machine. */
export interface CudaFacts {
  driver: LibraryFacts;
  nvrtc: LibraryFacts;
  cublasLt: LibraryFacts;
  cards: { name: string; capability: string; totalBytes: number }[];
}

/** The least that the kernels need: bfloat16. */
const leastCapability = 8;

/** Driver, cards and libraries. Without a driver there is no GPU to use, and nothing else to be said. */
export function cudaFindings({ driver, nvrtc, cublasLt, cards }: CudaFacts): Finding[] {
  if ('problem' in driver) return [ok('GPU', `none is used: ${driver.problem}`)];
  if (cards.length === 0) return [ok('NVIDIA driver', library(driver)), problem('GPU', 'the driver shows none', 'Is CUDA_VISIBLE_DEVICES empty? A container needs --gpus all.')];
  return [
    ok('NVIDIA driver', library(driver)),
    ...cards.map(({ name, capability, totalBytes }, i) => {
      const detail = `${cards.length > 1 ? `${i}: ` : ''}${name}, ${(totalBytes / 2 ** 30).toFixed(1)} GiB, compute capability ${capability}`;
      return Number(capability) >= leastCapability ? ok('GPU', detail) : problem('GPU', detail, 'The CUDA backend needs compute capability 8.0 or higher (A100, RTX 30 and newer); another backend is used.');
    }),
    ...([['NVRTC', nvrtc], ['cublasLt', cublasLt]] as const).map(([name, facts]) =>
      'problem' in facts ? problem(name, facts.problem, `For the GPU to be used: ${facts.advice}`) : ok(name, library(facts))),
  ];
}

const library = ({ version, path }: { version: string; path: string }): string => `${version} (${path})`;
