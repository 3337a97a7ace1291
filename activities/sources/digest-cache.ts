import { createHash, randomUUID } from 'node:crypto';
import { mkdir, readFile, rename, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Digest } from '../../store/artifact-store.js';
import { digestFile } from '../../store/digest.js';

/**
 * Size and sha256 of a file; remembered, so that an unchanged file (same path, size and time) is not read again.
 * @param onProgress bytes hashed
 */
export async function digestOf(path: string, cacheDirectory: string, onProgress?: (done: number, total: number) => void): Promise<Digest> {
  const { size, mtimeMs, ino } = await stat(path);
  const identity = `${path}\n${size}\n${mtimeMs}\n${ino}`;
  const known = await recall(identity, cacheDirectory);
  if (known) return known;
  const digest = await digestFile(path, { onProgress });
  await remember(identity, digest, cacheDirectory);
  return digest;
}

/** The digest remembered for an identity: text that changes whenever the bytes do. */
export async function recall(identity: string, cacheDirectory: string): Promise<Digest | undefined> {
  try {
    return JSON.parse(await readFile(recordPath(identity, cacheDirectory), 'utf8')) as Digest;
  } catch {
    return undefined; // unknown, or the cache was emptied meanwhile
  }
}

export async function remember(identity: string, digest: Digest, cacheDirectory: string): Promise<void> {
  const path = recordPath(identity, cacheDirectory);
  await mkdir(join(cacheDirectory, 'digests'), { recursive: true });
  const temporary = `${path}.${randomUUID()}`;
  await writeFile(temporary, JSON.stringify(digest));
  await rename(temporary, path);
}

const recordPath = (identity: string, cacheDirectory: string): string =>
  join(cacheDirectory, 'digests', `${createHash('sha256').update(identity).digest('hex')}.json`);
