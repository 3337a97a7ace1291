import { isAbsolute, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { ArtifactStore } from './artifact-store.js';
import { FileStore } from './file-store.js';
import { S3Store, type S3Options } from './s3-store.js';
import { StoreError } from './store-error.js';

export interface OpenStoreOptions {
  /** What a relative `file:` path is relative to. @default the working directory */
  base?: string;
  /** For `s3:` only. */
  s3?: S3Options;
}

/** Opens `file:` (absolute, or relative as in `file:results`) or `s3://bucket/prefix`. Nothing is contacted yet. @throws `bad_uri` */
export function openStore(uri: string, { base = process.cwd(), s3 }: OpenStoreOptions = {}): ArtifactStore {
  const scheme = /^([a-z0-9]+):/i.exec(uri)?.[1]?.toLowerCase();
  if (scheme === 'file') return new FileStore(filePath(uri, base));
  if (scheme === 's3') {
    const [, bucket, prefix = ''] = /^s3:\/\/([^/]+)(?:\/(.*))?$/i.exec(uri) ?? [];
    if (!bucket) throw new StoreError('bad_uri', uri, 'expected s3://bucket or s3://bucket/prefix');
    return new S3Store(bucket, prefix.replace(/\/+$/, ''), s3);
  }
  throw new StoreError('bad_uri', uri, `expected a URI of the scheme file: or s3:, got ${scheme ? `${scheme}:` : 'no scheme'}`);
}

/** The path a `file:` URI names: `file:///absolute`, `file:/absolute` or `file:relative/to/base`. @throws `bad_uri` */
export function filePath(uri: string, base: string): string {
  const rest = uri.slice('file:'.length);
  try {
    if (rest.startsWith('//')) return fileURLToPath(uri);
    const path = decodeURIComponent(rest);
    if (path === '') throw new Error('no path');
    return isAbsolute(path) ? path : resolve(base, path);
  } catch (error) {
    throw new StoreError('bad_uri', uri, `expected file:///absolute/path or file:relative/path (${(error as Error).message})`, { cause: error });
  }
}
