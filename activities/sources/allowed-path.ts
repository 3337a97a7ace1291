import { access, constants, realpath } from 'node:fs/promises';
import { sep } from 'node:path';
import { filePath } from '../../store/open-store.js';
import { SourceError } from './source-error.js';

/**
 * The real path behind a `file:` URI, links resolved.
 * @param roots directories that it must be in; a relative URI starts at the first
 * @throws SourceError when nothing is there, it may not be read, or it lies outside the roots
 */
export async function allowedPath(uri: string, roots: readonly string[]): Promise<string> {
  const wanted = filePath(uri, roots[0]);
  const refuse = (cause: NodeJS.ErrnoException): never => {
    throw new SourceError(`expected a file or directory at ${wanted}, got ${cause.code === 'EACCES' || cause.code === 'EPERM' ? 'no permission to read it' : 'none'}`, { cause });
  };
  const path = await realpath(wanted).catch(refuse);
  const real = await Promise.all(roots.map((root) => realpath(root).catch(() => root)));
  if (!real.some((root) => path === root || path.startsWith(root.endsWith(sep) ? root : root + sep))) {
    throw new SourceError(`expected a path inside the allowed directories (${roots.join(', ')}; TEMPER_DATA_ROOTS), got ${path}`);
  }
  await access(path, constants.R_OK).catch(refuse);
  return path;
}
