// Headline and facts of a plan; passes the plan on to the other components of the tab.

const { make, emit } = window.prunescope;
const $ = (s) => element.querySelector(s);

function show(plan) {
  $('.ph-headline').textContent = plan.headline;
  $('.ph-model').textContent = `For ${plan.model}`;
  $('.ph-facts').textContent = plan.facts.join(' · ');
  $('.ph-notes').replaceChildren(...plan.notes.map((n) => make('li', '', n)));
  emit('plan', plan);
}

watch('value', () => { if (props.value) show(props.value); });
if (props.value) show(props.value);
