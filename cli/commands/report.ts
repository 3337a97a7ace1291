import { spawn } from 'node:child_process';
import { join, resolve } from 'node:path';
import type { FineTuneResult } from '../../contracts/pipeline.js';
import { openStore } from '../../store/open-store.js';
import { CliError } from '../cli-error.js';
import { connect } from '../connect.js';
import type { Console } from '../console.js';
import { dataDirectory } from '../data-directory.js';

export interface ReportOptions {
  /** Where the page goes. @default .temper/reports/<id>.html */
  out?: string;
  /** Show it in the browser. */
  open?: boolean;
}

/** Fetches the report of a finished run and prints its path. */
export async function report(id: string, options: ReportOptions, console: Console): Promise<void> {
  const { client, config } = await connect();
  const handle = client.workflow.getHandle(id);
  const { status } = await handle.describe();
  if (status.name === 'RUNNING') throw new CliError('failed', `${id}: expected a finished run, got one that is running\nWatch it with: npx temper watch ${id}`);
  const { artifacts } = (await handle.result()) as FineTuneResult;
  const html = resolve(options.out ?? join(dataDirectory, 'reports', `${id}.html`));
  const markdown = html.replace(/(\.html?)?$/, '.md');
  const store = openStore(config.store);
  await store.getFile(artifacts.report.html, html);
  await store.getFile(artifacts.report.markdown, markdown);
  console.out(console.json ? JSON.stringify({ html, markdown }) : html);
  if (options.open) openInBrowser(html);
}

function openInBrowser(file: string): void {
  const opener = { darwin: 'open', win32: 'explorer' }[process.platform as string] ?? 'xdg-open';
  const child = spawn(opener, [file], { detached: true, stdio: 'ignore' });
  // The path has been printed; a machine without a browser is no failure.
  child.on('error', () => {});
  child.unref();
}
