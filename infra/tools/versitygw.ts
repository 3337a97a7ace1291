/** Where the S3 server of tests and local trials comes from: PATH, else built once with Go into the cache. */
import { execFile } from 'node:child_process';
import { access, mkdir, mkdtemp, rename, rm } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { findExecutable } from './find-executable.js';
import { ToolError } from './tool-error.js';

const run = promisify(execFile);

/** Versity S3 Gateway (Apache-2.0): serves a directory over S3, with atomic conditional writes and checked checksums. */
const version = 'v1.8.0';
const module = `github.com/versity/versitygw/cmd/versitygw@${version}`;

/**
 * Path of the `versitygw` program; builds it (minutes) when there is none yet.
 * @param cacheDirectory the project's cache, e.g. `.temper/cache`
 * @throws ToolError without Go, or when it cannot be built
 */
export async function versityGw(cacheDirectory: string): Promise<string> {
  const onPath = await findExecutable('versitygw');
  if (onPath) return onPath;
  const directory = resolve(cacheDirectory, 'tools', `versitygw-${version}`);
  const cached = join(directory, 'versitygw');
  if (await access(cached).then(() => true, () => false)) return cached;

  const remedy = `Install Go 1.24 or newer, or put versitygw ${version} on PATH.`;
  const go = await findExecutable('go');
  if (!go) throw new ToolError('versitygw: not on PATH, and no Go to build it with', remedy);
  await mkdir(directory, { recursive: true });
  const building = await mkdtemp(join(directory, 'build-'));
  try {
    await run(go, ['install', '-trimpath', module], { env: { ...process.env, GOBIN: building }, maxBuffer: 1 << 26 }).catch((error: { stderr?: string }) => {
      throw new ToolError(`versitygw: go install ${module} failed: ${error.stderr?.trim().split('\n').pop() ?? String(error)}`, remedy);
    });
    await rename(join(building, 'versitygw'), cached);
  } finally {
    await rm(building, { recursive: true, force: true });
  }
  return cached;
}
