/** Programs that are published as Go source: taken from PATH, else built once, by version, into the cache. */
import { execFile } from 'node:child_process';
import { access, mkdir, mkdtemp, readdir, rename, rm } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { findExecutable } from './find-executable.js';
import { ToolError } from './tool-error.js';

const run = promisify(execFile);

export interface GoTool {
  name: string;
  /** Import path of its main package. */
  module: string;
  version: string;
}

/**
 * Path of the program; builds it when there is none yet, which may take minutes.
 * @param cacheDirectory the project's cache, e.g. `.temper/cache`
 * @throws ToolError without Go, or when it cannot be built
 */
export async function goTool({ name, module, version }: GoTool, cacheDirectory: string): Promise<string> {
  const onPath = await findExecutable(name);
  if (onPath) return onPath;
  const directory = resolve(cacheDirectory, 'tools', `${name}-${version}`);
  const cached = join(directory, name);
  if (await access(cached).then(() => true, () => false)) return cached;

  const remedy = `Install Go 1.24 or newer, or put ${name} ${version} on PATH.`;
  const go = await findExecutable('go');
  if (!go) throw new ToolError(`${name}: not on PATH, and no Go to build it with`, remedy);
  await mkdir(directory, { recursive: true });
  const building = await mkdtemp(join(directory, 'build-'));
  try {
    await run(go, ['install', `${module}@${version}`], { env: { ...process.env, GOBIN: building }, maxBuffer: 1 << 26 }).catch((error: { stderr?: string }) => {
      throw new ToolError(`${name}: go install ${module}@${version} failed: ${error.stderr?.trim().split('\n').pop() ?? String(error)}`, remedy);
    });
    const [built] = await readdir(building); // named for its folder
    await rename(join(building, built), cached);
  } finally {
    await rm(building, { recursive: true, force: true });
  }
  return cached;
}
