import type { Answer } from '../../contracts/stages.js';
import { html, type Html } from './html.js';
import { counted } from './numbers.js';
import type { AnsweredQuestion, ReportData } from './report-data.js';

/** Every question with its reference and the answers of the base and the tuned model. */
export function answersSection({ questions, config }: ReportData): Html {
  if (questions.length === 0) return html`<p class="quiet">None were asked for (evaluate.prompts and evaluate.testRows are empty).</p>`;
  return html`<p class="quiet">Greedy answers of at most ${counted(config.evaluate.maxNewTokens, 'token')}, as generated, cut where the answer ends.</p>
${questions.map(card)}`;
}

const card = ({ title, prompt, reference, baseOwn, base, tuned }: AnsweredQuestion): Html => html`<article class="card">
<h3>${title}</h3>
<div class="answers">
${answer('Tuned model', tuned, 'tuned')}
${reference === null ? undefined : html`<section class="answer"><h4>Reference in the data</h4><p class="text">${reference.trim()}</p></section>`}
${base && answer('Untouched base, training format', base, 'base')}
${baseOwn && answer('Untouched base, its own format', baseOwn, 'base')}
</div>
<details><summary>The whole prompt</summary><pre>${prompt}</pre></details>
</article>
`;

const answer = (title: string, { text, tokens, stopped }: Answer, kind: string): Html => html`<section class="answer ${kind}"><h4>${title}</h4>
<p class="text">${text.trim() || '(nothing)'}</p>
<p class="quiet">${counted(tokens, 'token')}, ${stopped ? 'stopped by itself' : 'cut at the token limit'}</p></section>`;
