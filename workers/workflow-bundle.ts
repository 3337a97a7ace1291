import { createHash } from 'node:crypto';
import { access, mkdir, readFile, readdir, rename, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { bundleWorkflowCode, DefaultLogger } from '@temporalio/worker';

const root = fileURLToPath(new URL('../', import.meta.url));
const entry = join(root, 'workflows/index.ts');

/** Folders whose code can be in the bundle. */
const sources = ['workflows', 'contracts'];

/**
 * The workflow bundle as a file in the cache, made when there is none for the present sources and SDK. With it a worker is
 * ready in a third of the time.
 * @returns its path
 */
export async function workflowBundle(cacheDirectory: string): Promise<string> {
  const directory = join(cacheDirectory, 'workflow-bundles');
  const path = join(directory, `${await sourceDigest()}.js`);
  if (await access(path).then(() => true, () => false)) return path;
  const code = await buildWorkflowBundle();
  await mkdir(directory, { recursive: true });
  const temporary = `${path}.${process.pid}`;
  await writeFile(temporary, code);
  await rename(temporary, path);
  return path;
}

/** The bundle's code, with its source map inside. */
export async function buildWorkflowBundle(): Promise<string> {
  const { code } = await bundleWorkflowCode({ workflowsPath: entry, logger: new DefaultLogger('ERROR') });
  return code;
}

async function sourceDigest(): Promise<string> {
  const hash = createHash('sha256').update(sdkVersion());
  for (const folder of sources) {
    for (const name of (await readdir(join(root, folder), { recursive: true })).sort()) {
      if (name.endsWith('.ts')) hash.update(`${folder}/${name}\0`).update(await readFile(join(root, folder, name)));
    }
  }
  return hash.digest('hex').slice(0, 32);
}

const sdkVersion = (): string => (createRequire(import.meta.url)('@temporalio/worker/package.json') as { version: string }).version;
