import { access, constants, readdir, realpath, stat } from 'node:fs/promises';
import { basename, join, relative, resolve, sep } from 'node:path';
import { pathToFileURL } from 'node:url';
import { filePath } from '../../store/open-store.js';
import { globRoot, globTest, isGlob } from './glob.js';
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

/**
 * The file behind a `file:` URI, or all files that its pattern matches, sorted by name: each with its real path, and its name as
 * it was found.
 * @throws SourceError as allowedPath does, for a directory, and when no file matches
 */
export async function allowedFiles(uri: string, roots: readonly string[]): Promise<{ path: string; name: string }[]> {
  const pattern = resolve(roots[0], decodeURI(uri.slice('file:'.length)).replace(/^\/\/(?=\/)/, ''));
  if (!isGlob(pattern) || (await stat(pattern).then(() => true, () => false))) {
    const path = await allowedPath(uri, roots);
    if (!(await stat(path)).isFile()) throw new SourceError(`expected a file, got the directory ${path}; ${path}/*.csv would be the files in it`);
    return [{ path, name: basename(pattern) }];
  }
  const folder = globRoot(pattern);
  const root = await allowedPath(pathToFileURL(folder).href, roots);
  const matches = globTest(pattern.slice(folder.length));
  const entries = await readdir(root, { withFileTypes: true, recursive: /\*\*|[*?\]].*\//.test(pattern) });
  const names = entries.filter((entry) => !entry.isDirectory()).map((entry) => relative(root, join(entry.parentPath, entry.name)).split(sep).join('/'));
  const found = names.filter(matches).sort();
  if (found.length === 0) throw new SourceError(`expected files like ${pattern}, got ${names.slice(0, 10).join(', ') || 'none'}`);
  return Promise.all(found.map(async (name) => ({ path: await allowedPath(pathToFileURL(join(root, name)).href, roots), name: basename(name) })));
}
