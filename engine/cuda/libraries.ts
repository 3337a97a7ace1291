import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, realpathSync } from 'node:fs';
import { homedir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import koffi, { type LibraryHandle } from 'koffi';
import { CudaError } from './cuda-error.js';

export type CudaLibrary = 'driver' | 'nvrtc' | 'cublasLt';

/** A path for a library where the search shall not choose; takes precedence over everything else. */
export type LibraryPaths = Partial<Record<CudaLibrary, string>>;

interface LibraryDescription {
  what: string;
  /** Names by which a loader knows it, newest CUDA first. */
  names: string[];
  environment: string;
  /** Folders below `site-packages/nvidia` (CUDA 13's wheels share one, CUDA 12's have one each). */
  wheelFolders: string[];
  advice: string;
}

const descriptions: Record<CudaLibrary, LibraryDescription> = {
  driver: {
    what: "NVIDIA's driver (libcuda)",
    names: ['libcuda.so.1', 'libcuda.so'],
    environment: 'TEMPER_LIBCUDA',
    wheelFolders: [],
    advice: 'it comes with the NVIDIA driver; in a container start it with --gpus all (NVIDIA Container Toolkit)',
  },
  nvrtc: {
    what: "CUDA's run-time compiler (libnvrtc)",
    names: ['libnvrtc.so.13', 'libnvrtc.so.12', 'libnvrtc.so'],
    environment: 'TEMPER_LIBNVRTC',
    wheelFolders: ['cu13/lib', 'cuda_nvrtc/lib'],
    advice: 'pip install nvidia-cuda-nvrtc (CUDA 13) or nvidia-cuda-nvrtc-cu12, or install the CUDA toolkit',
  },
  cublasLt: {
    what: "CUDA's matrix library (libcublasLt)",
    names: ['libcublasLt.so.13', 'libcublasLt.so.12', 'libcublasLt.so'],
    environment: 'TEMPER_LIBCUBLASLT',
    wheelFolders: ['cu13/lib', 'cublas/lib'],
    advice: 'pip install nvidia-cublas (CUDA 13) or nvidia-cublas-cu12, or install the CUDA toolkit',
  },
};

export interface FoundLibrary {
  handle: LibraryHandle;
  /** What the loader was given: a path, or a bare name that it resolved by itself. */
  path: string;
}

/**
 * Loads a CUDA library from, in this order: `paths`, its environment variable, the loader's own search (LD_LIBRARY_PATH,
 * ldconfig), CUDA_HOME and CUDA_PATH, /usr/local/cuda*, and the `nvidia` folders of pip's site-packages.
 * @throws CudaError `library_missing`; the message says what is missing, where it was looked for and how to get it
 */
export function loadLibrary(library: CudaLibrary, paths: LibraryPaths = {}): FoundLibrary {
  const { what, names, environment, advice } = descriptions[library];
  const chosen = paths[library] ?? process.env[environment];
  const candidates = chosen ? [chosen] : [...names, ...directories(library).flatMap((folder) => names.map((name) => join(folder, name)).filter((path) => existsSync(path)))];
  const failures: string[] = [];
  for (const path of candidates) {
    try {
      // NVRTC opens its built-ins by bare name, which a loader finds beside it only if they are already in the process.
      for (const companion of path.includes('/') ? children(dirname(path), /^libnvrtc-builtins\.so[\d.]+$/) : []) if (library === 'nvrtc') koffi.load(companion);
      return { handle: koffi.load(path), path };
    } catch (error) {
      // That the loader's own search has no such file needs no saying; anything else does.
      if (path.includes('/') || !/No such file/.test(String(error))) failures.push(`${path}: ${firstLine(error)}`);
    }
  }
  const looked = chosen
    ? `${paths[library] ? 'the path it was given' : environment} alone was looked at`
    : `looked for ${names.join(', ')} in ${["the loader's path", ...directories(library)].join(', ')}; ${environment} may name the file`;
  throw new CudaError('library_missing', `${what}: expected to load it, got ${failures.join('; ') || 'none'}; ${looked}; ${advice}`);
}

/** How to get a library. */
export const libraryAdvice = (library: CudaLibrary): string => descriptions[library].advice;

/** Every folder in which the library may be, existing ones only. */
export function directories(library: CudaLibrary): string[] {
  const roots = [process.env.CUDA_HOME, process.env.CUDA_PATH, ...children('/usr/local', /^cuda(-[\d.]+)?$/)].filter((root): root is string => Boolean(root));
  const toolkit = roots.flatMap((root) => ['lib64', 'lib', 'targets/x86_64-linux/lib', 'targets/sbsa-linux/lib'].map((folder) => join(root, folder)));
  const wheels = sitePackages().flatMap((site) => descriptions[library].wheelFolders.map((folder) => join(site, 'nvidia', folder)));
  return [...new Set([...ldconfigFolders(descriptions[library].names), ...toolkit, ...wheels])].filter((folder) => existsSync(folder));
}

/** The site-packages of the active environment, of the `python3` on PATH, and of the user. */
function sitePackages(): string[] {
  const pythons = (process.env.PATH ?? '').split(delimiter).map((folder) => join(folder, 'python3')).filter((path) => existsSync(path)).slice(0, 4);
  const prefixes = [
    process.env.VIRTUAL_ENV,
    process.env.CONDA_PREFIX,
    // A virtual environment's python3 is a link: its own prefix comes first, the one it points to second.
    ...pythons.flatMap((python) => [dirname(dirname(python)), dirname(dirname(realpathSync(python)))]),
    join(homedir(), '.local'),
  ].filter((prefix): prefix is string => Boolean(prefix));
  return [...new Set(prefixes)].flatMap((prefix) =>
    children(join(prefix, 'lib'), /^python3/).flatMap((python) => [join(python, 'site-packages'), join(python, 'dist-packages')]),
  );
}

function ldconfigFolders(names: string[]): string[] {
  for (const command of ['ldconfig', '/sbin/ldconfig']) {
    try {
      const listing = execFileSync(command, ['-p'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
      return listing.split('\n').filter((line) => names.some((name) => line.trim().startsWith(`${name} `))).map((line) => dirname(line.split('=> ')[1]));
    } catch {
      // Not on PATH, or not there at all (musl): the other places remain.
    }
  }
  return [];
}

function children(folder: string, pattern: RegExp): string[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder).filter((name) => pattern.test(name)).sort().reverse().map((name) => join(folder, name));
}

const firstLine = (error: unknown) => (error instanceof Error ? error.message : String(error)).split('\n')[0];
