import { execFile } from 'node:child_process';
import { chmod, copyFile, mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

const script = fileURLToPath(new URL('../../../infra/setup-libtensorflow.mjs', import.meta.url));
let root: string;

/** A repository with nothing but the script and a tfjs-node whose binding is missing. */
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'temper-setup-'));
  await mkdir(join(root, 'infra'));
  await mkdir(join(root, 'bin'));
  await copyFile(script, join(root, 'infra/setup-libtensorflow.mjs'));
  const tfjsNode = join(root, 'node_modules/@tensorflow/tfjs-node');
  await mkdir(tfjsNode, { recursive: true });
  await writeFile(join(tfjsNode, 'package.json'), '{"name":"@tensorflow/tfjs-node","version":"4.22.0"}');
});
afterEach(() => rm(root, { recursive: true }));

interface Finished {
  code: number;
  lines: string[];
}

/** Runs the setup with only the programs of the repository's bin folder on PATH. */
const setUp = (...args: string[]): Promise<Finished> =>
  new Promise((resolve) => {
    const child = execFile(process.execPath, [join(root, 'infra/setup-libtensorflow.mjs'), ...args], { env: { PATH: join(root, 'bin') } }, (_error, _stdout, stderr) =>
      resolve({ code: child.exitCode ?? -1, lines: stderr.trim().split('\n') }),
    );
  });

async function program(name: string, body: string): Promise<void> {
  const path = join(root, 'bin', name);
  await writeFile(path, `#!/bin/sh\n${body}\n`);
  await chmod(path, 0o755);
}

describe('setup of libtensorflow', () => {
  it('refuses an option it does not know', async () => {
    expect(await setUp('--cuda')).toEqual({ code: 2, lines: ['setup: --cuda: unknown option; expected --gpu or none'] });
  });

  it('has nothing to do where the binding and its library are there', async () => {
    const tfjsNode = join(root, 'node_modules/@tensorflow/tfjs-node');
    for (const file of ['lib/napi-v8/tfjs_binding.node', 'deps/lib/libtensorflow.so']) {
      await mkdir(join(tfjsNode, file, '..'), { recursive: true });
      await writeFile(join(tfjsNode, file), '');
    }
    expect(await setUp()).toEqual({ code: 0, lines: [''] });
  });
});

// Elsewhere the package's own installer does the work.
describe.skipIf(process.platform !== 'linux' || process.arch !== 'x64')('setup of libtensorflow from its wheel', () => {
  const fallback = 'libtensorflow: not set up, so wasm will be used, which trains about twenty times slower: ';

  it('says in one line that Python is missing, and is no failure', async () => {
    expect(await setUp()).toEqual({ code: 0, lines: [`${fallback}expected Python 3 with pip, found neither`] });
  });

  it('says that pip is missing where Python is not', async () => {
    await program('python3', '[ "$1" = --version ]');
    expect(await setUp()).toEqual({ code: 0, lines: [`${fallback}expected pip, found Python without it (install python3-pip)`] });
  });

  it("passes on pip's last line and leaves nothing half done in the cache", async () => {
    await program('python3', 'case "$*" in *download*) echo "Looking in indexes" >&2; echo "ERROR: no route to host" >&2; exit 1;; esac');
    const { code, lines } = await setUp();
    expect(code).toBe(0);
    expect(lines).toEqual([
      'libtensorflow: fetching tensorflow-cpu 2.20.0 (259 MB, once)',
      `${fallback}pip could not download tensorflow-cpu==2.20.0: ERROR: no route to host`,
    ]);
    expect(await readdir(join(root, '.temper/cache'))).toEqual([]);
  });

  it('has pip check the digest of what it downloads', async () => {
    await program('python3', 'case "$*" in *download*) for last; do :; done; while read -r line; do echo "$* / $line" >&2; done < "$last"; exit 1;; esac');
    const { lines } = await setUp();
    expect(lines.at(-1)).toMatch(/--require-hashes .* \/ tensorflow-cpu==2\.20\.0 --hash=sha256:[0-9a-f]{64}$/);
  });
});
