import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { reportStage } from '../../activities/report.js';
import { ticks } from '../../activities/report/axis.js';
import { compare } from '../../activities/report/comparison.js';
import { distinctPart } from '../../activities/report/distinct-part.js';
import { html, Html } from '../../activities/report/html.js';
import { cell, fence } from '../../activities/report/markdown-text.js';
import { duration, percent, significant, size } from '../../activities/report/numbers.js';
import { verdict } from '../../activities/report/verdict.js';
import type { Metrics } from '../../contracts/stages.js';
import { reportInput } from '../kit/report-input.js';
import { stageKit } from '../kit/stage.js';

const base: Metrics = { evalLoss: 3, perplexity: 20.1, evalTokens: 100, rougeL: 0.1, meanTokens: 64, repetition: 0.2, stopRate: 0.125 };
const tuned: Metrics = { evalLoss: 2, perplexity: 7.39, evalTokens: 100, rougeL: 0.3, meanTokens: 20, repetition: 0, stopRate: 1 };

describe('verdict', () => {
  it.each<[string, Partial<Metrics>, string]>([
    ['helped', {}, 'The tuning helped: the loss on held-out rows fell from 3.000 to 2.000 nats per token (perplexity 20.1 to 7.39), ROUGE-L went from 0.100 to 0.300, and 100% of the answers stop by themselves (base: 12.5%).'],
    ['helped', { rougeL: null }, 'The tuning helped: the loss on held-out rows fell from 3.000 to 2.000 nats per token (perplexity 20.1 to 7.39), and 100% of the answers stop by themselves (base: 12.5%).'],
    ['no difference', { evalLoss: 2.98, perplexity: 19.7 }, 'The tuning made no difference: the loss on held-out rows went from 3.000 to 2.980 nats per token (perplexity 20.1 to 19.7).'],
    ['hurt', { evalLoss: 3.5, perplexity: 33.1 }, 'The tuning did not help: the loss on held-out rows rose from 3.000 to 3.500 nats per token (perplexity 20.1 to 33.1).'],
    ['mixed', { rougeL: 0.05, stopRate: 0, repetition: 0.5 },
      'The tuning helped in part: the loss on held-out rows fell from 3.000 to 2.000 nats per token (perplexity 20.1 to 7.39), but answers overlap less with the references (ROUGE-L 0.100 to 0.050) and fewer answers stop by themselves (12.5% to 0%) and answers repeat themselves more (20% to 50%).'],
  ])('%s: %j', (outcome, change, sentence) => expect(verdict(base, { ...tuned, ...change })).toEqual({ outcome, sentence }));
});

describe('compare', () => {
  const judged = (change: Partial<Metrics>) => Object.fromEntries(compare(base, { ...tuned, ...change }).map(({ name, change, judgement }) => [name, `${change} ${judgement}`]));
  it('judges each figure by its own good direction', () => {
    expect(judged({})).toEqual({
      Loss: '−1.000 better', Perplexity: '−12.7 better', 'ROUGE-L': '+0.200 better', 'Stop rate': '+87.5 points better', Repetition: '−20 points better', 'Answer length': '−44.0 neutral',
    });
    expect(judged({ evalLoss: 3.1, rougeL: 0.05, stopRate: 0, repetition: 0.3 })).toMatchObject({
      Loss: '+0.100 worse', 'ROUGE-L': '−0.050 worse', 'Stop rate': '−12.5 points worse', Repetition: '+10 points worse',
    });
  });

  it('calls what reads the same the same, and does not judge what is not there', () => {
    expect(judged({ evalLoss: 3.0001, rougeL: null })).toMatchObject({ Loss: 'none same', 'ROUGE-L': ' neutral' });
  });
});

describe('html', () => {
  it('escapes values but not markup', () => {
    expect(html`<p title="${'"\'&'}">${'<b>'}${html`<i>${1}</i>`}${[new Html('x'), new Html('y')]}${undefined}</p>`.markup)
      .toBe('<p title="&#34;&#39;&#38;">&#60;b&#62;<i>1</i>xy</p>');
  });
  it('and Markdown show control characters as signs', () => {
    expect(html`${'a\0\u009b\tb\n'}`.markup).toBe('a␀\ufffd\tb\n');
    expect([fence('a\u001b[1m'), cell('a\0')]).toEqual(['```\na␛[1m\n```', 'a␀']);
  });
});

describe('numbers', () => {
  it('read as people write them', () => {
    expect([size(0), size(999), size(98_765), size(9_766_000), size(259e9)]).toEqual(['0 B', '999 B', '98.8 KB', '9.8 MB', '259 GB']);
    expect([duration(0.94), duration(59.7), duration(143.8), duration(7500)]).toEqual(['0.9 s', '1 min 0 s', '2 min 24 s', '2 h 5 min']);
    expect([significant(8.917), significant(47.13), significant(120.4), significant(1203.4)]).toEqual(['8.92', '47.1', '120', '1,203']);
    expect([percent(0.125), percent(1), percent(0.01783, 3)]).toEqual(['12.5%', '100%', '1.783%']);
  });
});

describe('ticks', () => {
  it.each([
    [2.3, 3.95, 5, [2, 2.5, 3, 3.5, 4]], [0, 128, 6, [0, 50, 100, 150]], [1.002, 1.004, 4, [1.002, 1.0025, 1.003, 1.0035, 1.004]], [2, 2, 5, [2]],
  ])('from %d to %d', (low, high, number, expected) => expect(ticks(low, high, number)).toEqual(expected));
});

describe('distinctPart', () => {
  it('leaves out the words that all texts begin and end with', () => {
    expect(distinctPart(['Describe a red mouse now', 'Describe a lamp now'])).toEqual(['red mouse', 'lamp']);
  });
  it.each([
    ['<|im_start|>user\nDescribe X<|im_end|>\n<|im_start|>assistant\n'], ['<s>[INST] Describe X[/INST]'], ['<|user|>\nDescribe X</s>\n<|assistant|>\n'],
    ['<|start_header_id|>user<|end_header_id|>\n\nDescribe X<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n'],
  ])('leaves out what a chat template sets around a turn: %j', (template) => {
    expect(distinctPart(['a < b', 'lamp'].map((product) => template.replace('X', product)))).toEqual(['a < b', 'lamp']);
  });
  it.each([[['one text'], ['one text']], [['same', 'same'], ['same', 'same']], [[], []], [['a b', 'a'], ['b', 'a']]])('of %j is %j', (texts, parts) => expect(distinctPart(texts)).toEqual(parts));
});

describe('the report', () => {
  let kit: Awaited<ReturnType<typeof stageKit>>;
  let page: string;
  let markdown: string;
  beforeAll(async () => {
    kit = await stageKit();
    const { store } = kit.context;
    const output = await reportStage.run(await reportInput(store), kit.context);
    page = (await store.getBytes(output.html)).toString();
    markdown = (await store.getBytes(output.markdown)).toString();
  });
  afterAll(() => kit.remove());

  it('escapes what the data and the models say', () => {
    expect(page).toContain('lightspeed &#60;b&#62;vacuum&#60;/b&#62;, belonging to category: cleaner &#38; &#39;sweeper&#39;');
    expect(page).not.toContain('<b>vacuum');
    expect(markdown).toContain('### lightspeed \\<b\\>vacuum\\</b\\>');
  });

  it('asks nothing of the network and runs no script', () => {
    expect(page).not.toMatch(/<script|\bon\w+="|src="|url\(|@import/);
    expect(page.match(/href="[^#"][^"]*"/g)).toEqual(['href="data:,"']);
  });

  it.each(['3.846', '2.418', '46.8', '0.221', '2,442,240 of 136,957,248 (1.783%)', '9,590', '1,859', '2 min 24 s', 'an electrical appliance that cleans floors by suction'])('shows %s on the page and in Markdown', (text) => {
    expect(page).toContain(text);
    expect(markdown).toContain(text);
  });

  it('begins the held-out curve with the untouched base', () => {
    expect(page).toContain('<title>Untouched base: held-out loss 3.846</title>');
    expect(page).toContain('<title>Step 128 (epoch 2.00): held-out loss 2.418</title>');
  });

  it('lists every artifact with its digest', async () => {
    const input = await reportInput(kit.context.store);
    for (const { sha256 } of [...input.model.files, ...input.train.adapter, ...input.merge.merged, input.ingest.train, input.format.test, input.train.history, input.evaluate.answers]) {
      expect(page).toContain(sha256);
      expect(markdown).toContain(sha256);
    }
  });

  it('has the same bytes for the same input', async () => {
    const input = await reportInput(kit.context.store);
    expect(await reportStage.run(input, kit.context)).toEqual(await reportStage.run(input, kit.context));
  });
});
