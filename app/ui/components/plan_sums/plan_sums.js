// What a plan takes out, in sums: the parts that it touches, and the full model, told apart.

const { make, on, amount, change } = window.prunescope;

function cell(text, more) {
  const td = make('td');
  td.append(make('strong', '', text), make('small', '', more));
  return td;
}

function row(name, ...cells) {
  const tr = make('tr'), head = make('th', '', name);
  head.scope = 'row';
  tr.append(head, ...cells);
  return tr;
}

function pair([before, after]) { return cell(change(before, after), `${amount(before)} → ${amount(after)}`); }

on('plan', ({ sums }) => {
  const rows = sums.rows.map((r) => row(r.name, cell(`${r.heads[0]} of ${r.heads[1]}`, ''), pair(r.parameters), pair(r.flops)));
  rows.push(row('full model', cell('–', ''), cell('–', ''), pair(sums.full)));
  element.querySelector('tbody').replaceChildren(...rows);
  element.querySelector('.ps-sums-note').textContent = `Parameters of attention and feed-forward in the layers in use. Multiply-adds of encoding one picture and one prefill: ${sums.tokens}. An estimate says nothing about seconds.`;
});
