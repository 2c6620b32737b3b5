-- Two decisions of one number have an order that is the same on every machine.

CREATE OR REPLACE VIEW current_promotions AS
SELECT * FROM promotions
WHERE decision <> 'refused'
QUALIFY row_number() OVER (
    PARTITION BY channel, family, slo ORDER BY number DESC, promotion DESC
) = 1
ORDER BY channel, family, slo;
COMMENT ON VIEW current_promotions IS 'What is deployed now: the last decision of each channel, model family and SLO that was not refused.';
