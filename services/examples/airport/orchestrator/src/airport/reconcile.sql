-- What every airline owes for every month, computed straight from the CSV files and the tariff. It shares no code with
-- the ledger: only the tariff's figures (table tariff) and its rounding rule, half up, which is (x *
-- permille + 500) / 1000
-- on whole numbers that are not negative.
WITH
day_flights AS (
    SELECT
        f.line - 1 AS row,
        f.carrier AS airline,
        CAST(f.month AS INTEGER) AS month,
        f.dep_time = 'NA' AS cancelled,
        CASE WHEN f.arr_delay = 'NA' THEN NULL ELSE CAST(f.arr_delay AS INTEGER) END AS arrival_delay,
        CAST(f.distance AS INTEGER) AS miles,
        p.tailnum IS NOT NULL AS registered,
        CAST(p.seats AS INTEGER) AS seats,
        CAST(p.engines AS INTEGER) AS engines,
        p.engine AS engine,
        CASE
            WHEN w.visib IS NULL OR w.visib = 'NA' THEN -1
            ELSE CAST(round(w.visib * 100) AS INTEGER)
        END AS visibility,
        CASE
            WHEN w.wind_speed IS NULL OR w.wind_speed = 'NA' THEN -1
            ELSE CAST(round(w.wind_speed * 100) AS INTEGER)
        END AS wind
    FROM flights AS f
    LEFT JOIN planes AS p ON p.tailnum = f.tailnum
    -- An hour that was observed twice counts as it was first written down.
    LEFT JOIN (SELECT origin, time_hour, visib, wind_speed, min(line) FROM weather GROUP BY origin, time_hour) AS w
        ON w.origin = f.origin AND w.time_hour = f.time_hour
    WHERE f.line <= :flights_max
),
settled AS (
    -- A flight that left and has no arrival delay stays in quarantine: nothing is booked.
    SELECT *, CASE WHEN registered THEN seats ELSE (SELECT unknown_aircraft_seats FROM tariff) END AS counted_seats
    FROM day_flights
    WHERE cancelled OR arrival_delay IS NOT NULL
),
loaded AS (
    SELECT s.*, (s.counted_seats * t.load_permille + 500) / 1000 AS passengers
    FROM settled AS s, tariff AS t
),
landed AS (
    SELECT
        l.*,
        t.base + t.per_seat * l.counted_seats
            + CASE WHEN l.registered AND l.engine IN ('Turbo-fan', 'Turbo-jet') THEN t.jet_surcharge ELSE 0 END
            + CASE WHEN l.registered AND l.engines > 2 THEN t.third_engine * (l.engines - 2) ELSE 0 END AS landing,
        CASE
            WHEN l.cancelled OR l.arrival_delay <= t.threshold_minutes THEN 0
            WHEN l.miles <= t.short_miles THEN t.short_per_passenger * l.passengers
            WHEN l.miles <= t.medium_miles THEN t.medium_per_passenger * l.passengers
            ELSE t.long_per_passenger * l.passengers
        END AS compensation,
        (l.visibility >= 0 AND l.visibility <= t.relief_visibility_centimiles)
            OR l.wind >= t.relief_wind_centimph AS excused
    FROM loaded AS l, tariff AS t
)
SELECT
    airline,
    month,
    sum(
        CASE
            -- Landing is booked and reversed; the slot fee stays.
            WHEN cancelled THEN landing - landing + t.slot_fee
            ELSE landing + t.per_passenger * passengers + compensation
                - CASE WHEN excused THEN (compensation * t.weather_relief_permille + 500) / 1000 ELSE 0 END
        END
    ) AS charged_minor,
    count(*) AS flights
FROM landed, tariff AS t
GROUP BY airline, month
ORDER BY airline, month
