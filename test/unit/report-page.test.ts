import { execFileSync } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { chromium, type Browser, type Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { reportStage } from '../../activities/report.js';
import { reportInput } from '../kit/report-input.js';
import { stageKit } from '../kit/stage.js';

const executablePath = findBrowser();
const title = executablePath ? 'the report in a browser' : 'the report in a browser (skipped: no chromium, chromium-browser or google-chrome on the PATH)';

function findBrowser(): string | undefined {
  for (const name of ['chromium', 'chromium-browser', 'google-chrome']) {
    try {
      return execFileSync('which', [name], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
    } catch {
      continue;
    }
  }
  return undefined;
}

describe.skipIf(!executablePath)(title, () => {
  let kit: Awaited<ReturnType<typeof stageKit>>;
  let browser: Browser;
  let url: string;
  beforeAll(async () => {
    kit = await stageKit();
    const output = await reportStage.run(await reportInput(kit.context.store), kit.context);
    const path = join(kit.directory, 'report.html');
    await writeFile(path, await kit.context.store.getBytes(output.html));
    url = pathToFileURL(path).href;
    browser = await chromium.launch({
      executablePath,
      args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
    });
  });
  afterAll(async () => {
    await browser?.close();
    await kit?.remove();
  });

  async function open(width: number, colorScheme: 'light' | 'dark'): Promise<{ page: Page; said: string[]; requests: string[] }> {
    const page = await browser.newPage({ viewport: { width, height: 844 }, colorScheme });
    const said: string[] = [];
    const requests: string[] = [];
    page.on('console', (message) => said.push(message.text()));
    page.on('pageerror', (error) => said.push(error.message));
    page.on('request', (request) => requests.push(request.url()));
    await page.goto(url);
    return { page, said, requests };
  }

  it.each([[1280, 'light'], [390, 'light'], [390, 'dark'], [320, 'light']] as const)('fits %d px (%s), without a word on the console or a request', async (width, scheme) => {
    const { page, said, requests } = await open(width, scheme);
    expect(await page.evaluate('document.documentElement.scrollWidth')).toBe(width);
    expect(said).toEqual([]);
    expect(requests.filter((request) => !request.startsWith('data:'))).toEqual([url]);
    await page.close();
  });

  it('shows verdict, figures and every section to a reader', async () => {
    const { page } = await open(1280, 'light');
    expect(await page.locator('.verdict').innerText()).toMatch(/The tuning helped: .* 3\.846 to 2\.418 nats/);
    expect(await page.locator('.tile').allInnerTexts()).toHaveLength(4);
    expect(await page.locator('h2').allInnerTexts()).toEqual([
      'Base against tuned', 'Training', 'Merged model', 'Answers side by side', 'Data', 'What the model was trained on', 'Configuration', 'Time by stage', 'Files and digests',
    ]);
    expect(await page.getByRole('img', { name: 'Loss by training step' }).isVisible()).toBe(true);
    expect(await page.locator('.tokens .trained').count()).toBe(13);
    await page.close();
  });

  it('is dark where the reader\'s system is', async () => {
    const ground = async (scheme: 'light' | 'dark') => {
      const { page } = await open(1280, scheme);
      const colour = await page.evaluate('getComputedStyle(document.body).backgroundColor');
      await page.close();
      return colour;
    };
    expect(await ground('light')).not.toBe(await ground('dark'));
  });

  it('prints to a few pages', async () => {
    const { page } = await open(1280, 'dark');
    const pdf = await page.pdf({ format: 'A4' });
    expect(pdf.subarray(0, 5).toString()).toBe('%PDF-');
    await page.close();
  });
});
