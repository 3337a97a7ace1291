import { answersSection } from './answers-section.js';
import { compare, type ComparedFigure } from './comparison.js';
import { evidence, rowFacts, tokenFacts, trainingFacts, type Fact } from './facts.js';
import { listFiles } from './files.js';
import { histogramChart } from './histogram-chart.js';
import { html, Html } from './html.js';
import { lossChart } from './loss-chart.js';
import { ggufMeaning, ggufTable, mergeMeaning, mergeTable, mergeVerdict, type TextTable } from './merge-tables.js';
import { count, duration, size } from './numbers.js';
import { previewSection } from './preview-section.js';
import type { ReportData } from './report-data.js';
import { style } from './style.js';
import { verdict } from './verdict.js';

/** The figures that open the page. */
const TILES = ['Loss', 'Perplexity', 'ROUGE-L', 'Stop rate'];

/** The report as one HTML page that asks nothing of the network and runs no script. The same data give the same bytes. */
export function renderPage(data: ReportData): string {
  const { config, model, baseline, evaluate } = data;
  const figures = compare(baseline.metrics, evaluate.metrics);
  const shown = sections.filter(([id]) => id !== 'merged' || mergeVerdict(data.merge) !== undefined);
  const { outcome, sentence } = verdict(baseline.metrics, evaluate.metrics);
  const { markup } = html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="generator" content="Temper">
<link rel="icon" href="data:,">
<title>${config.name}: fine-tuning report</title>
<style>${new Html(style)}</style>
</head>
<body>
<header>
<p class="eyebrow">Fine-tuning report · ${model.uri} on ${[config.dataset.uri].flat().join(', ')}</p>
<h1>${config.name}</h1>
<p class="verdict ${outcome === 'no difference' ? 'none' : outcome}"><strong>${outcome}</strong>${sentence}</p>
<dl class="tiles">${figures.filter(({ name }) => TILES.includes(name)).map(tile)}</dl>
<nav aria-label="Sections">${shown.map(([id, title]) => html`<a href="#${id}">${title}</a>`)}</nav>
</header>
<main>
${shown.map(([id, title, render]) => html`<section aria-labelledby="${id}"><h2 id="${id}">${title}</h2>
${render(data, figures)}
</section>
`)}</main>
<footer>Made by Temper. Every figure comes from this run's artifacts, listed above with their digests.</footer>
</body>
</html>
`;
  return markup;
}

type Section = readonly [id: string, title: string, render: (data: ReportData, figures: readonly ComparedFigure[]) => Html];

const sections: readonly Section[] = [
  ['results', 'Base against tuned', (data, figures) => html`<div class="card"><div class="wide">${comparisonTable(figures)}</div></div><p class="quiet">${evidence(data)}</p>`],
  ['training', 'Training', (data) => html`<div class="card">${lossChart(data.trainLoss, data.evalLoss)}</div><div class="card">${factList(trainingFacts(data))}</div>`],
  ['merged', 'Merged model', mergedSection],
  ['answers', 'Answers side by side', answersSection],
  ['data', 'Data', dataSection],
  ['sample', 'What the model was trained on', ({ preview }) => previewSection(preview)],
  ['configuration', 'Configuration', ({ config }) => html`<pre class="card long config">${JSON.stringify(config, null, 2)}</pre>`],
  ['timings', 'Time by stage', timingsSection],
  ['files', 'Files and digests', filesSection],
];

const tile = ({ name, base, tuned }: ComparedFigure): Html => html`<div class="tile"><dt>${name}</dt><dd>${tuned}</dd><dd>base: ${base}</dd></div>`;

const factList = (facts: readonly Fact[]): Html => html`<dl class="facts">${facts.map(([name, value]) => html`<dt>${name}</dt><dd>${value}</dd>`)}</dl>`;

const comparisonTable = (figures: readonly ComparedFigure[]): Html => html`<table class="figures">
<thead><tr><th scope="col">Figure</th><th scope="col" class="number">Base</th><th scope="col" class="number">Tuned</th><th scope="col" class="number">Change</th><th scope="col"></th></tr></thead>
<tbody>${figures.map(({ name, meaning, base, tuned, change, judgement }) => html`<tr><th scope="row">${name}<small>${meaning}</small></th><td class="number" data-name="base">${base}</td><td class="number" data-name="tuned"><strong>${tuned}</strong></td><td class="number" data-name="change">${change}</td><td>${judgement === 'neutral' ? undefined : html`<span class="badge ${judgement}">${judgement}</span>`}</td></tr>
`)}</tbody>
</table>`;

function mergedSection({ merge }: ReportData): Html {
  const [ways, files] = [mergeTable(merge), ggufTable(merge)];
  return html`<p>${mergeVerdict(merge)}</p>
${ways && html`<div class="card"><div class="wide">${textTable(ways)}</div></div><p class="quiet">${mergeMeaning(merge)}</p>`}
${files && html`<div class="card"><div class="wide">${textTable(files)}</div></div><p class="quiet">${ggufMeaning(merge)}</p>`}
${merge.notes?.map((note) => html`<p class="quiet">${note}</p>`)}`;
}

const textTable = ({ head, rows }: TextTable): Html => html`<table>
<thead><tr>${head.map((name) => html`<th scope="col">${name}</th>`)}</tr></thead>
<tbody>${rows.map(([first, ...rest]) => html`<tr><th scope="row">${first}</th>${rest.map((text) => html`<td>${text}</td>`)}</tr>
`)}</tbody>
</table>`;

function dataSection(data: ReportData): Html {
  const { ingest, format } = data;
  return html`<div class="card">
${factList([...rowFacts(data), ...tokenFacts(data)])}
<div class="bars-pair">
${histogramChart({ id: 'row-lengths', ...ingest.report.lengths, noun: 'row', unit: 'characters' })}
${histogramChart({ id: 'token-lengths', ...format.report.train.lengths, noun: 'train row', unit: 'tokens' })}
</div>
</div>
<p class="quiet">Only the columns that the format names are kept: ${ingest.columns.join(', ')}.</p>`;
}

function timingsSection({ timings }: ReportData): Html {
  const total = timings.reduce((sum, { seconds }) => sum + seconds, 0);
  return html`<div class="card"><div class="wide"><table>
<thead><tr><th scope="col">Stage</th><th scope="col" class="number">Time</th><th scope="col">Stage key</th></tr></thead>
<tbody>${timings.map(({ name, seconds, key }) => html`<tr><th scope="row">${name}</th><td class="number">${duration(seconds)}</td><td class="mono digest">${key}</td></tr>
`)}<tr><th scope="row">Together</th><td class="number"><strong>${duration(total)}</strong></td><td></td></tr></tbody>
</table></div></div>
<p class="quiet">Times of the stages when they were run; a stage whose key was known already returned its earlier result.</p>`;
}

function filesSection(data: ReportData): Html {
  const { architecture } = data.model;
  const files = listFiles(data);
  return html`<div class="card"><p>Base model: ${architecture.name}, ${count(architecture.parameters)} parameters, ${architecture.layers} layers of width ${count(architecture.hiddenSize)}, ${architecture.heads} heads (${architecture.kvHeads} for keys and values), context of ${count(architecture.contextLength)} tokens.</p>
<div class="wide"><table>
<thead><tr><th scope="col">Belongs to</th><th scope="col">File</th><th scope="col" class="number">Size</th><th scope="col">SHA-256</th></tr></thead>
<tbody>${files.map(({ group, name, bytes, sha256 }) => html`<tr><td>${group}</td><th scope="row">${name}</th><td class="number">${size(bytes)}</td><td class="mono digest">${sha256}</td></tr>
`)}</tbody>
</table></div></div>`;
}
