/** The part of the Hugging Face hub's HTTP API that clients make repositories and commits by; see hub-server.ts. */
import { createHash } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { fail, isLarge, json, madeCommit, repositoryFile, type Repository, type RepositoryFile, type Served } from './hub-server.js';

/** Whose token it is, and what it may do. */
export interface HubAccount {
  name: string;
  /** Organisations with the account's role in each. @default none */
  orgs?: readonly { name: string; roleInOrg: 'admin' | 'write' | 'contributor' | 'read' }[];
  /** @default write */
  role?: 'write' | 'read' | 'fineGrained';
  /** Of a fine-grained token. */
  grants?: readonly { entity: { type: string; name: string }; permissions: readonly string[] }[];
}

/** Objects that were uploaded, by their sha256. */
export type Uploads = Map<string, Buffer>;

const digest = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex');

async function bodyOf(request: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}

/** Answers what makes a repository or a commit. @returns false when the request is none of it */
export function answerUpload(request: IncomingMessage, response: ServerResponse, served: Served): boolean {
  const { pathname } = new URL(request.url!, 'http://hub');
  const { token, account } = served.options;
  const routes: [RegExp, string, (parts: string[], body: Buffer) => void][] = [
    [/^\/api\/whoami-v2$/, 'GET', () => json(response, {
      type: 'user', id: '1', name: account!.name, fullname: account!.name, isPro: false,
      orgs: (account!.orgs ?? []).map((org) => ({ type: 'org', id: org.name, ...org })),
      auth: { type: 'access_token', accessToken: { displayName: 'test', role: account!.role ?? 'write', ...(account!.grants && { fineGrained: { scoped: account!.grants } }), createdAt: '2026-01-01T00:00:00.000Z' } },
    })],
    [/^\/api\/repos\/create$/, 'POST', (_, body) => create(response, served, JSON.parse(body.toString()) as never)],
    [/^\/api\/models\/([^/]+\/[^/]+)\/branch\/([^/]+)$/, 'POST', ([name, branch]) => withRepository(response, served, name, ({ revisions }) => {
      revisions.set(branch, revisions.get('main')!);
      json(response, {});
    })],
    [/^\/api\/models\/([^/]+\/[^/]+)\/preupload\/([^/]+)$/, 'POST', ([name], body) => withRepository(response, served, name, () => {
      const { files } = JSON.parse(body.toString()) as { files: { path: string }[] };
      json(response, { files: files.map(({ path }) => ({ path, uploadMode: isLarge(path) ? 'lfs' : 'regular', shouldIgnore: false })) });
    })],
    [/^\/([^/]+\/[^/]+)\.git\/info\/lfs\/objects\/batch$/, 'POST', ([name], body) => withRepository(response, served, name, () => {
      const { objects } = JSON.parse(body.toString()) as { objects: { oid: string; size: number }[] };
      json(response, {
        transfer: 'basic',
        objects: objects.map((object) => (served.uploads.has(object.oid) ? object : { ...object, actions: { upload: { href: `${served.cdnAddress}/upload/${object.oid}` } } })),
      });
    })],
    [/^\/api\/models\/([^/]+\/[^/]+)\/commit\/([^/]+)$/, 'POST', ([name, branch], body) => withRepository(response, served, name, (found) => commit(response, served, found, branch, body.toString()))],
  ];
  const route = routes.find(([pattern, method]) => request.method === method && pattern.test(pathname));
  if (!route) return false;
  if (!account || token === undefined || request.headers.authorization !== `Bearer ${token}`) {
    fail(response, 401, '', 'Invalid credentials in Authorization header');
    return true;
  }
  const parts = route[0].exec(pathname)!.slice(1).map(decodeURIComponent);
  bodyOf(request).then((body) => route[2](parts, body), () => response.destroy());
  return true;
}

/** Takes an object that a batch answer sent here. */
export function receiveUpload(request: IncomingMessage, response: ServerResponse, uploads: Uploads): boolean {
  const [, oid] = /^\/upload\/([0-9a-f]{64})$/.exec(request.url!) ?? [];
  if (oid === undefined || request.method !== 'PUT') return false;
  bodyOf(request).then((bytes) => {
    if (digest(bytes) !== oid) return fail(response, 400, '', 'the object is not what its digest says');
    uploads.set(oid, bytes);
    response.writeHead(200).end();
  }, () => response.destroy());
  return true;
}

function mayWrite({ options: { account } }: Served, name: string): boolean {
  const [owner] = name.split('/');
  const org = account!.orgs?.find((candidate) => candidate.name === owner);
  return account!.role !== 'read' && (owner === account!.name || (org !== undefined && org.roleInOrg !== 'read'));
}

function withRepository(response: ServerResponse, served: Served, name: string, work: (found: Repository) => void): void {
  const found = served.repositories.find((candidate) => candidate.kind === 'model' && candidate.name === name);
  if (!found) return fail(response, 404, 'RepoNotFound', 'Repository not found');
  if (!mayWrite(served, name)) return fail(response, 403, '', 'you do not have the rights to write to this repository');
  work(found);
}

function create(response: ServerResponse, served: Served, { name, organization, visibility }: { name: string; organization: string; visibility?: string }): void {
  const full = `${organization}/${name}`;
  if (!mayWrite(served, full)) return fail(response, 403, '', `you do not have the rights to create a model under the namespace ${organization}`);
  if (served.repositories.some((candidate) => candidate.name === full)) return fail(response, 409, '', 'You already created this model repo');
  const made: Repository = { kind: 'model', name: full, commits: new Map(), revisions: new Map(), visibility };
  madeCommit(made, 'main', [repositoryFile('.gitattributes', Buffer.from('*.safetensors filter=lfs diff=lfs merge=lfs -text\n'))], 'initial commit');
  served.repositories.push(made);
  json(response, { url: `${served.endpoint}/${full}`, id: full, name: full });
}

type Operation =
  | { key: 'header'; value: { summary: string; parentCommit?: string } }
  | { key: 'file'; value: { path: string; content: string } }
  | { key: 'lfsFile'; value: { path: string; oid: string } }
  | { key: 'deletedFile'; value: { path: string } };

function commit(response: ServerResponse, served: Served, found: Repository, branch: string, body: string): void {
  const operations = body.split('\n').filter(Boolean).map((line) => JSON.parse(line) as Operation);
  const head = found.revisions.get(branch);
  if (head === undefined) return fail(response, 404, 'RevisionNotFound', `Invalid rev id: ${branch}`);
  const files = new Map(found.commits.get(head)!.map((file) => [file.path, file]));
  let summary = '';
  for (const { key, value } of operations) {
    if (key === 'header') {
      summary = value.summary;
      if (value.parentCommit !== undefined && value.parentCommit !== head) return fail(response, 412, '', 'A commit has happened since. Please refresh and try again.');
    } else if (key === 'deletedFile') {
      files.delete(value.path);
    } else {
      const bytes = key === 'file' ? Buffer.from(value.content, 'base64') : served.uploads.get(value.oid);
      if (!bytes) return fail(response, 400, '', `no object was uploaded for ${value.path}`);
      files.set(value.path, repositoryFile(value.path, bytes));
    }
  }
  const sorted: RepositoryFile[] = [...files.values()].sort((a, b) => (a.path < b.path ? -1 : 1));
  const oid = madeCommit(found, branch, sorted, `${summary} ${found.commits.size}`);
  json(response, { success: true, commitOid: oid, commitUrl: `${served.endpoint}/${found.name}/commit/${oid}`, hookOutput: '' });
}
