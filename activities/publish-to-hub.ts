import { createHash } from 'node:crypto';
import { openAsBlob } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { commitIter, createBranch, createRepo, HubApiError, listFiles, modelInfo, whoAmI, type CommitOperation } from '@huggingface/hub';
import type { NamedArtifact } from '../contracts/artifact.js';
import { InvalidInputError } from '../contracts/errors.js';
import type { HubConfig } from '../contracts/fine-tune-config.js';
import type { HubSettings } from './sources/hub/hub-settings.js';
import type { StageContext } from './stage.js';

/** What of a run goes into a repository: everything under one of these, at its root. */
const folders: Record<HubConfig['what'], (name: string) => string | undefined> = {
  adapter: (name) => strip(name, 'adapter/') ?? (name === 'gguf/adapter.gguf' ? 'adapter.gguf' : undefined),
  merged: (name) => strip(name, 'merged/') ?? (name === 'gguf/adapter.gguf' ? undefined : strip(name, 'gguf/')),
};
const strip = (name: string, prefix: string) => (name.startsWith(prefix) ? name.slice(prefix.length) : undefined);

/** Weights of an earlier version that loaders would take for this one's. */
const isWeights = (path: string) => /^(model|adapter_model)[\w.-]*\.(safetensors|gguf|index\.json)$/.test(path);

/** What a fine-grained token may do, as the hub tells of it. */
interface FineGrained {
  scoped?: { entity: { name?: string }; permissions: string[] }[];
}

/** How often a commit is tried anew after someone else's came between. */
const attempts = 3;

/**
 * Makes sure that a repository can be pushed to, before anything is spent on what would be pushed.
 * @throws InvalidInputError saying what to do
 */
export async function checkHub({ repo }: HubConfig, settings: HubSettings): Promise<void> {
  const { endpoint, token } = settings;
  const refuse = (message: string) => new InvalidInputError([{ path: 'publish.hub.repo', message }]);
  const tokens = `${endpoint}/settings/tokens`;
  if (settings.offline) throw refuse('a push needs the network, got HF_HUB_OFFLINE=1');
  if (token === undefined) throw refuse(`a push needs a token that may write: set HF_TOKEN to one of ${tokens} or run \`hf auth login\``);
  const account = await ask(settings, () => whoAmI({ hubUrl: endpoint, accessToken: token }));
  const [owner] = repo.split('/');
  const orgs = ('orgs' in account ? account.orgs : []) as { name: string; roleInOrg?: string }[];
  const org = orgs.find(({ name }) => name === owner);
  if (owner !== account.name && !org) {
    throw refuse(`expected a repository of ${[account.name, ...orgs.map(({ name }) => name)].join(', ')}, whose token this is, got ${repo}`);
  }
  if (org?.roleInOrg === 'read') throw refuse(`${account.name} may only read in ${owner}: ask its administrators for the right to write`);
  const grants = (account.auth.accessToken as { fineGrained?: FineGrained } | undefined)?.fineGrained?.scoped;
  if (grants && !grants.some(({ entity, permissions }) => [owner, repo].includes(entity.name ?? '') && permissions.includes('repo.write'))) {
    throw refuse(`the token has no right to write to ${repo}: give it that right, or set HF_TOKEN to another (${tokens})`);
  }
  if (account.auth.accessToken?.role === 'read') throw refuse(`the token may only read: set HF_TOKEN to one that may write (${tokens})`);
}

/**
 * Makes a repository hold an adapter or a merged model, in one commit; none when it holds the same already, so that a retry adds
 * nothing. Other files in it stay, but weights of an earlier version that loaders would mistake for this one's.
 */
export async function publishToHub(hub: HubConfig, name: string, files: readonly NamedArtifact[], settings: HubSettings, context: StageContext): Promise<{ url: string; commit: string }> {
  const { endpoint, token } = settings;
  const wanted = files.flatMap((file) => {
    const path = folders[hub.what](file.name);
    return path === undefined ? [] : [{ ...file, name: path }];
  });
  const client: Client = { repo: { type: 'model', name: hub.repo }, hubUrl: endpoint, accessToken: token! };
  for (let attempt = 1; ; attempt++) {
    const head = await ask(settings, () => openBranch(hub, client));
    const operations = await difference(client, head, wanted, context);
    if (operations.length === 0) {
      context.log.info({ commit: head }, `publish: ${hub.repo} holds the same already`);
      return { url: `${endpoint}/${hub.repo}/tree/${hub.revision}`, commit: head };
    }
    try {
      const commit = await ask(settings, () => send(client, { title: `${name}: ${hub.what}`, branch: hub.revision, parentCommit: head, operations }, context));
      context.log.info({ commit, files: operations.length }, `publish: committed to ${hub.repo}`);
      return { url: `${endpoint}/${hub.repo}/tree/${hub.revision}`, commit };
    } catch (error) {
      if (!(error instanceof HubApiError && error.statusCode === 412) || attempt === attempts) throw error;
    }
  }
}

interface Client {
  repo: { type: 'model'; name: string };
  hubUrl: string;
  accessToken: string;
}

/** The branch's commit; repository and branch are made when there are none. */
async function openBranch(hub: HubConfig, client: Client): Promise<string> {
  const head = (revision: string) => modelInfo({ ...client, name: hub.repo, revision, additionalFields: ['sha'] }).then(({ sha }) => sha);
  const missing = (error: unknown): undefined => {
    if (error instanceof HubApiError && error.statusCode === 404) return undefined;
    throw error;
  };
  const found = await head(hub.revision).catch(missing);
  if (found !== undefined) return found;
  if ((await head('main').catch(missing)) === undefined) {
    await createRepo({ ...client, visibility: hub.private ? 'private' : 'public' }).catch((error: unknown) => {
      if (!(error instanceof HubApiError && error.statusCode === 409)) throw error; // made meanwhile
    });
  }
  if (hub.revision !== 'main') await createBranch({ ...client, branch: hub.revision });
  return head(hub.revision);
}

/** What has to be done to a commit's files so that they are the wanted ones. */
async function difference(client: Client, head: string, wanted: readonly NamedArtifact[], { store, workDirectory, signal, progress }: StageContext): Promise<CommitOperation[]> {
  const present = new Map<string, { lfs?: string; oid?: string }>();
  for await (const entry of listFiles({ ...client, revision: head, recursive: true })) {
    if (entry.type === 'file') present.set(entry.path, { lfs: entry.lfs?.oid, oid: entry.oid });
  }
  const operations: CommitOperation[] = [];
  for (const [i, { name, ...ref }] of wanted.entries()) {
    signal.throwIfAborted();
    progress('comparing with the hub', i, wanted.length);
    const there = present.get(name);
    if (there?.lfs === ref.sha256) continue;
    const path = join(workDirectory, `push-${i}`);
    await store.getFile(ref, path, { signal });
    if (there && there.lfs === undefined && there.oid === (await gitOid(path))) continue;
    operations.push({ operation: 'addOrUpdate', path: name, content: await openAsBlob(path) });
  }
  const names = new Set(wanted.map(({ name }) => name));
  for (const path of present.keys()) if (isWeights(path) && !names.has(path)) operations.push({ operation: 'delete', path });
  return operations;
}

/** git's name for a file's contents. */
async function gitOid(path: string): Promise<string> {
  const bytes = await readFile(path);
  return createHash('sha1').update(`blob ${bytes.length}\0`).update(bytes).digest('hex');
}

async function send(client: Client, commit: { title: string; branch: string; parentCommit: string; operations: CommitOperation[] }, { signal, progress }: StageContext): Promise<string> {
  const events = commitIter({ ...client, ...commit, abortSignal: signal });
  for (;;) {
    const next = await events.next();
    if (next.done) return next.value!.commit.oid;
    const event = next.value;
    if (event.event === 'fileProgress') progress(`${event.state} ${event.path}`, event.progress, 1);
    else progress(event.phase === 'committing' ? 'committing to the hub' : 'uploading to the hub', 0, 1);
  }
}

/** A refusal that only the user can lift is wrong input; everything else may pass. */
async function ask<T>({ endpoint }: HubSettings, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof HubApiError) || (error.statusCode !== 401 && error.statusCode !== 403)) throw error;
    const message = error.statusCode === 401
      ? `${endpoint} refuses the token: ${error.message}; set HF_TOKEN to a valid one (${endpoint}/settings/tokens) or run \`hf auth login\``
      : `${endpoint} refuses the push: ${error.message}; the token needs the right to write`;
    throw new InvalidInputError([{ path: 'publish.hub.repo', message }]);
  }
}
