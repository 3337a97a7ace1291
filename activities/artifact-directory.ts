import { mkdir, readdir } from 'node:fs/promises';
import { dirname, extname, join, relative, resolve, sep } from 'node:path';
import type { NamedArtifact } from '../contracts/artifact.js';
import { InvalidInputError } from '../contracts/errors.js';
import type { ArtifactStore } from '../store/artifact-store.js';

const mediaTypes: Record<string, string> = {
  '.json': 'application/json',
  '.jsonl': 'application/jsonl',
  '.html': 'text/html; charset=utf-8',
  '.md': 'text/markdown; charset=utf-8',
  '.txt': 'text/plain; charset=utf-8',
};

/** By extension; `application/octet-stream` for what has no type of its own, safetensors among it. */
export const mediaTypeOf = (name: string): string => mediaTypes[extname(name)] ?? 'application/octet-stream';

/** Stores every file of a directory, named by its path in it; sorted by name. */
export async function putDirectory(store: ArtifactStore, directory: string, signal?: AbortSignal): Promise<NamedArtifact[]> {
  const artifacts: NamedArtifact[] = [];
  for (const { name, path } of await filesIn(directory)) {
    artifacts.push({ name, ...(await store.putFile(path, mediaTypeOf(name), { signal })) });
  }
  return artifacts;
}

/** Every file below a directory, with its name in artifacts; sorted by path. */
export async function filesIn(directory: string): Promise<{ name: string; path: string }[]> {
  const entries = await readdir(directory, { withFileTypes: true, recursive: true });
  const paths = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
  return paths.sort().map((path) => ({ name: relative(directory, path).split(sep).join('/'), path }));
}

/** Fetches a directory-like artifact; each file is verified against its digest. */
export async function getDirectory(store: ArtifactStore, files: NamedArtifact[], directory: string, signal?: AbortSignal): Promise<void> {
  for (const { name, ...ref } of files) {
    const path = resolve(directory, name);
    if (!path.startsWith(resolve(directory) + sep)) {
      throw new InvalidInputError([{ path: name, message: 'expected a path inside the directory, got one that leaves it' }]);
    }
    await mkdir(dirname(path), { recursive: true });
    await store.getFile(ref, path, { signal });
  }
}
