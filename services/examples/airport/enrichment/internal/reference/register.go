// Package reference serves the register of aircraft and the observed weather, from the CSV files of the year.
package reference

import (
	"encoding/csv"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
)

// NotMeasured stands for a figure that the file does not have.
const NotMeasured = -1

// Plane is an aircraft of the register.
type Plane struct {
	Seats   int    `json:"seats"`
	Engines int    `json:"engines"`
	Engine  string `json:"engine"`
}

// Hour is the weather of an hour at an airport, in hundredths of a mile, of a mile an hour and of an inch;
// NotMeasured where the file has nothing.
type Hour struct {
	Visibility    int `json:"visibility"`
	Wind          int `json:"wind"`
	Precipitation int `json:"precipitation"`
}

// Register is what the service knows. It does not change.
type Register struct {
	planes map[string]Plane
	hours  map[string]Hour
}

// Load reads planes.csv and weather.csv of a folder.
func Load(folder string) (*Register, error) {
	register := &Register{planes: map[string]Plane{}, hours: map[string]Hour{}}
	columns := []string{"tailnum", "seats", "engines", "engine"}
	if err := readCSV(filepath.Join(folder, "planes.csv"), columns, register.addPlane); err != nil {
		return nil, err
	}
	columns = []string{"origin", "time_hour", "visib", "wind_speed", "precip"}
	if err := readCSV(filepath.Join(folder, "weather.csv"), columns, register.addHour); err != nil {
		return nil, err
	}
	return register, nil
}

func (r *Register) addPlane(row []string) error {
	seats, err := strconv.Atoi(row[1])
	if err != nil {
		return fmt.Errorf("seats: %w", err)
	}
	engines, err := strconv.Atoi(row[2])
	if err != nil {
		return fmt.Errorf("engines: %w", err)
	}
	r.planes[row[0]] = Plane{Seats: seats, Engines: engines, Engine: row[3]}
	return nil
}

// addHour keeps the first of two observations of one hour.
func (r *Register) addHour(row []string) error {
	key := row[0] + "/" + row[1]
	if _, seen := r.hours[key]; seen {
		return nil
	}
	var figures [3]int
	for i, text := range row[2:] {
		figure, err := hundredths(text)
		if err != nil {
			return err
		}
		figures[i] = figure
	}
	r.hours[key] = Hour{Visibility: figures[0], Wind: figures[1], Precipitation: figures[2]}
	return nil
}

func hundredths(text string) (int, error) {
	if text == "NA" || text == "" {
		return NotMeasured, nil
	}
	figure, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return 0, err
	}
	return int(math.Round(figure * 100)), nil
}

// readCSV hands the named columns of every row to add.
func readCSV(path string, columns []string, add func([]string) error) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	rows, err := csv.NewReader(file).ReadAll()
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if len(rows) == 0 {
		return fmt.Errorf("%s is empty", path)
	}
	places := make([]int, len(columns))
	for i, column := range columns {
		if places[i] = slices.Index(rows[0], column); places[i] < 0 {
			return fmt.Errorf("%s has no column %q", path, column)
		}
	}
	picked := make([]string, len(columns))
	for number, row := range rows[1:] {
		for i, place := range places {
			picked[i] = row[place]
		}
		if err := add(picked); err != nil {
			return fmt.Errorf("%s, row %d: %w", path, number+1, err)
		}
	}
	return nil
}
