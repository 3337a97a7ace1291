import { realpath } from 'node:fs/promises';
import { sep } from 'node:path';
import { filePath } from '../../store/open-store.js';
import { SourceError } from './source-error.js';

/**
 * The real path behind a `file:` URI, links resolved.
 * @param roots directories that it must be in; a relative URI starts at the first
 * @throws SourceError when nothing is there or it lies outside the roots
 */
export async function allowedPath(uri: string, roots: readonly string[]): Promise<string> {
  const wanted = filePath(uri, roots[0]);
  const path = await realpath(wanted).catch((cause: NodeJS.ErrnoException) => {
    throw new SourceError(`expected a file or directory at ${wanted}, got ${cause.code === 'EACCES' ? 'no permission to read it' : 'none'}`, { cause });
  });
  const real = await Promise.all(roots.map((root) => realpath(root).catch(() => root)));
  if (real.some((root) => path === root || path.startsWith(root.endsWith(sep) ? root : root + sep))) return path;
  throw new SourceError(`expected a path inside the allowed directories (${roots.join(', ')}; TEMPER_DATA_ROOTS), got ${path}`);
}
