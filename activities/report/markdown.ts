import type { Answer } from '../../contracts/stages.js';
import { compare } from './comparison.js';
import { evidence, rowFacts, tokenFacts, trainingFacts, type Fact } from './facts.js';
import { listFiles } from './files.js';
import { cell, fence, inline, table } from './markdown-text.js';
import { ggufMeaning, ggufTable, mergeMeaning, mergeTable, mergeVerdict } from './merge-tables.js';
import { counted, duration, size } from './numbers.js';
import type { AnsweredQuestion, ReportData } from './report-data.js';
import { verdict } from './verdict.js';

/** The report as Markdown: the page's text and figures, without its charts. */
export function renderMarkdown(data: ReportData): string {
  const { config, model, baseline, evaluate, preview, timings } = data;
  const figures = compare(baseline.metrics, evaluate.metrics);
  return `${[
    `# ${config.name}: fine-tuning report`,
    `${inline(model.uri)} on ${inline([config.dataset.uri].flat().join(', '))}`,
    `**${verdict(baseline.metrics, evaluate.metrics).sentence}**`,
    '## Base against tuned',
    table(['Figure', 'Base', 'Tuned', 'Change', ''], figures.map(({ name, base, tuned, change, judgement }) => [name, base, tuned, change, judgement === 'neutral' ? '' : judgement])),
    evidence(data),
    '## Training',
    facts(trainingFacts(data)),
    table(['Step', 'Epoch', 'Held-out loss'], data.evalLoss.map(({ step, epoch, loss }) => [String(step), epoch.toFixed(2), loss.toFixed(3)])),
    ...mergeSection(data),
    '## Answers side by side',
    ...data.questions.map(question),
    '## Data',
    facts([...rowFacts(data), ...tokenFacts(data)]),
    '## What the model was trained on',
    `The first training row; the loss counts ${preview.tokens.filter(({ trained }) => trained).length} of its ${counted(preview.tokens.length, 'token')}, the part below the line.`,
    fence(preview.tokens.filter(({ trained }) => !trained).map(({ text }) => text).join('')),
    '---',
    fence(preview.tokens.filter(({ trained }) => trained).map(({ text }) => text).join('')),
    '## Configuration',
    fence(JSON.stringify(config, null, 2), 'json'),
    '## Time by stage',
    table(['Stage', 'Time', 'Stage key'], timings.map(({ name, seconds, key }) => [name, duration(seconds), inline(key)])),
    '## Files and digests',
    table(['Belongs to', 'File', 'Size', 'SHA-256'], listFiles(data).map(({ group, name, bytes, sha256 }) => [group, inline(name), size(bytes), inline(sha256)])),
  ].join('\n\n')}\n`;
}

/** Nothing for results of earlier versions. */
function mergeSection({ merge }: ReportData): string[] {
  const verdict = mergeVerdict(merge);
  if (verdict === undefined) return [];
  const [ways, files] = [mergeTable(merge), ggufTable(merge)];
  const texts = [verdict, ways && table(ways.head, ways.rows), mergeMeaning(merge), files && table(files.head, files.rows), ggufMeaning(merge), ...(merge.notes ?? [])];
  return ['## Merged model', ...texts.filter((text) => text !== undefined)];
}

function question({ title, reference, baseOwn, base, tuned }: AnsweredQuestion): string {
  const answer = (name: string, { text, tokens, stopped }: Answer) =>
    `${name} (${counted(tokens, 'token')}, ${stopped ? 'stopped by itself' : 'cut at the token limit'}):\n\n${fence(text.trim())}`;
  return [
    `### ${cell(title)}`,
    answer('Tuned model', tuned),
    ...(reference === null ? [] : [`Reference in the data:\n\n${fence(reference.trim())}`]),
    ...(base ? [answer('Untouched base, training format', base)] : []),
    ...(baseOwn ? [answer('Untouched base, its own format', baseOwn)] : []),
  ].join('\n\n');
}

const facts = (list: readonly Fact[]): string => list.map(([name, value]) => `- ${name}: ${cell(value)}`).join('\n');
