import { readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { Driver, OutValue } from './driver.js';
import { libraryAdvice, loadLibrary, type CudaLibrary, type LibraryPaths } from './libraries.js';
import { Nvrtc } from './nvrtc.js';

/** A library that loads, or why it does not. */
export type LibraryReport = { version: string; path: string } | { problem: string; advice: string };

export interface CardReport {
  name: string;
  /** E.g. `9.0`. */
  capability: string;
  totalBytes: number;
}

/** What the backend would find on this machine. Each part is looked at by itself, so that all that is missing is seen at once. */
export interface CudaReport {
  /** libcuda; the version is the newest CUDA it runs, with the driver's own where the system tells it. */
  driver: LibraryReport;
  nvrtc: LibraryReport;
  cublasLt: LibraryReport;
  /** The visible ones, in the driver's order. */
  cards: CardReport[];
}

/** Looks without opening a device. Never throws. */
export function inspectCuda(paths: LibraryPaths = {}): CudaReport {
  let cards: CardReport[] = [];
  return {
    driver: report('driver', () => {
      const driver = new Driver(paths);
      const out = new OutValue();
      driver.call('int cuDriverGetVersion(_Out_ void *)')(out.buffer);
      const cuda = `${Math.floor(out.int / 1000)}.${(out.int % 1000) / 10}`;
      cards = listCards(driver);
      return { version: [driverRelease(), `CUDA ${cuda}`].filter(Boolean).join(', '), path: loadedPath(driver.path) };
    }),
    nvrtc: report('nvrtc', () => {
      const { version, path } = new Nvrtc(paths);
      return { version, path: loadedPath(path) };
    }),
    cublasLt: report('cublasLt', () => {
      const { handle, path } = loadLibrary('cublasLt', paths);
      const version = Number((handle.func('size_t cublasLtGetVersion()') as () => number | bigint)());
      // Major · 10,000 + minor · 100 + patch; before CUDA 12 in other units.
      return { version: `${Math.floor(version / 10_000)}.${Math.floor((version % 10_000) / 100)}.${version % 100}`, path: loadedPath(path) };
    }),
    cards,
  };
}

function report(library: CudaLibrary, look: () => { version: string; path: string }): LibraryReport {
  try {
    return look();
  } catch (error) {
    const advice = libraryAdvice(library);
    return { problem: (error instanceof Error ? error.message : String(error)).replace(`; ${advice}`, ''), advice };
  }
}

const ATTRIBUTE = { major: 75, minor: 76 } as const;

function listCards(driver: Driver): CardReport[] {
  const out = new OutValue();
  driver.call('int cuDeviceGetCount(_Out_ void *)')(out.buffer);
  return Array.from({ length: out.int }, (_, ordinal) => {
    driver.call('int cuDeviceGet(_Out_ void *, int)')(out.buffer, ordinal);
    const device = out.int;
    const text = Buffer.alloc(128);
    driver.call('int cuDeviceGetName(_Out_ void *, int, int)')(text, 128, device);
    const attribute = (which: number): number => {
      driver.call('int cuDeviceGetAttribute(_Out_ void *, int, int)')(out.buffer, which, device);
      return out.int;
    };
    const capability = `${attribute(ATTRIBUTE.major)}.${attribute(ATTRIBUTE.minor)}`;
    driver.call('int cuDeviceTotalMem_v2(_Out_ void *, int)')(out.buffer, device);
    return { name: text.toString('utf8').replace(/\0.*$/s, ''), capability, totalBytes: out.pointer };
  });
}

/** The driver's own version, as its kernel module tells it; empty where it does not. */
function driverRelease(): string {
  try {
    return /Module\S*\s+(?:for \S+\s+)?([\d.]+)/.exec(readFileSync('/proc/driver/nvidia/version', 'utf8'))?.[1] ?? '';
  } catch {
    return ''; // In some containers, and off Linux.
  }
}

/** The file behind a name that the loader resolved by itself, where the system tells it. */
function loadedPath(path: string): string {
  if (path.includes('/')) return path;
  const stem = path.replace(/\.so.*$/, '.so');
  try {
    const files = readFileSync('/proc/self/maps', 'utf8').split('\n').map((line) => line.slice(line.indexOf('/')));
    return files.find((file) => basename(file).startsWith(stem)) ?? path;
  } catch {
    return path; // Off Linux.
  }
}
