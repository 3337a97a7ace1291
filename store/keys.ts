import type { ArtifactRef } from '../contracts/artifact.js';
import { StoreError } from './store-error.js';

/** Where an immutable object lives: two hex digits a directory keep listings short. */
export const objectKey = (sha256: string): string => `objects/${sha256.slice(0, 2)}/${sha256}`;

/** Refuses keys that would leave the root or collide with the stores' own files (names that begin with a dot). */
export function checkKey(key: string): string {
  const wrong = key.split('/').find((part) => part === '' || part.startsWith('.') || /[\\\x00-\x1f]/.test(part));
  if (wrong !== undefined) throw new StoreError('bad_uri', `key ${JSON.stringify(key)}`, `expected names separated by "/", none empty or beginning with ".", got ${JSON.stringify(wrong)}`);
  return key;
}

/** The key of a reference inside `root` (a URI). */
export function keyOfRef(root: string, ref: ArtifactRef): string {
  const prefix = `${root}/`;
  if (!ref.uri.startsWith(prefix)) throw new StoreError('bad_uri', ref.uri, `expected an object of the store ${root}`);
  return ref.uri.slice(prefix.length);
}
