import { mkdir, readdir, readFile, readlink, realpath, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { dirname, join, relative, sep } from 'node:path';
import { getRepoFolderName } from '@huggingface/hub';
import { isCommit, type HubRepositoryId } from './hub-uri.js';

/**
 * One repository in the cache, as Python's huggingface_hub keeps it: `blobs/<etag>` with the bytes, `refs/<revision>` with the
 * commit that a branch or tag pointed to last, `snapshots/<commit>/<path>` with links to the blobs.
 */
export class HubCache {
  /** The repository's own. */
  readonly folder: string;
  constructor(directory: string, id: HubRepositoryId) {
    this.folder = join(directory, getRepoFolderName({ type: id.kind, name: id.name }));
  }

  blobPath(etag: string): string {
    return join(this.folder, 'blobs', etag);
  }

  snapshot(commit: string): string {
    return join(this.folder, 'snapshots', commit);
  }

  /** Real path of a file of a commit; undefined when the cache lacks it, or has it in another size. */
  async find(commit: string, path: string, bytes?: number): Promise<string | undefined> {
    const link = join(this.snapshot(commit), path);
    const size = await stat(link).then((stats) => (stats.isFile() ? stats.size : undefined), () => undefined);
    return size === undefined || (bytes !== undefined && size !== bytes) ? undefined : realpath(link);
  }

  /** The commit that a revision pointed to when it was asked for last. */
  async recall(revision: string): Promise<string | undefined> {
    if (isCommit(revision)) return revision;
    const text = await readFile(join(this.folder, 'refs', revision), 'utf8').catch(() => '');
    return isCommit(text.trim()) ? text.trim() : undefined;
  }

  async remember(revision: string, commit: string): Promise<void> {
    if (revision === commit) return;
    const path = join(this.folder, 'refs', revision);
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, commit);
  }

  /** Whether a blob is here, whole. */
  async holds(etag: string, bytes: number): Promise<boolean> {
    return (await stat(this.blobPath(etag)).catch(() => undefined))?.size === bytes;
  }

  /** Shows a blob under its path in a commit. */
  async link(commit: string, path: string, etag: string): Promise<void> {
    const link = join(this.snapshot(commit), path);
    const target = relative(dirname(link), this.blobPath(etag));
    await mkdir(dirname(link), { recursive: true });
    await symlink(target, link).catch(async (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EEXIST') throw error;
      if ((await readlink(link).catch(() => '')) === target) return; // another process was faster
      await rm(link, { force: true });
      await symlink(target, link);
    });
  }

  /** The paths that a commit's snapshot has, in `/`, sorted. */
  async paths(commit: string): Promise<string[]> {
    const root = this.snapshot(commit);
    const entries = await readdir(root, { withFileTypes: true, recursive: true }).catch(() => []);
    return entries.filter((entry) => !entry.isDirectory()).map((entry) => relative(root, join(entry.parentPath, entry.name)).split(sep).join('/')).sort();
  }
}
